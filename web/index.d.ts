// Types of the npm package vaecodec.

interface Samples {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8ClampedArray;
}

/** RGBA, not premultiplied, row by row: an ImageData where the types of the DOM are known, a plain object elsewhere. */
export type Picture = typeof globalThis extends { ImageData: { prototype: infer InBrowsers } } ? InBrowsers : Samples;

export interface DecodeOptions {
  /** 1, or 1/2, 1/4 or 1/8 for a preview of that scale, sides rounded up. */
  scale?: 1 | 0.5 | 0.25 | 0.125;
  /** Left, top, right and bottom in pixels: only this part, equal to the crop of the whole picture; needs scale 1. */
  region?: readonly [number, number, number, number] | null;
  /** Larger pictures are refused before anything is allocated for them. Above 0; null or Infinity leaves the limit of the format. */
  maxPixels?: number | null;
}

export interface Info {
  width: number;
  height: number;
  format: 'L' | 'RGB' | 'LA' | 'RGBA';
  /** 1 to 100. */
  quality: number;
  /** Side of a tile in pixels. */
  tileSize: number;
  /** Of the weights that learned tiles need, 8 hexadecimal digits. */
  modelId: string;
  deblockingCut: number;
  fileBytes: number;
  tiles: ('learned' | 'zlib' | 'solid' | 'webp' | 'corrected')[];
  metadata: { iccProfile?: Uint8Array; exif?: Uint8Array; xmp?: Uint8Array };
  /** Of the EXIF metadata, 1 to 8; 1 if it tells none. */
  orientation: number;
}

/** Header, tile index and metadata of a file; throws VaecError. */
export function info(bytes: ArrayBuffer | ArrayBufferView, options?: { maxPixels?: number | null } | null): Info;

/** The picture; rejects with VaecError. In browsers a worker does it, in Node the calling thread. */
export function decode(bytes: ArrayBuffer | ArrayBufferView, options?: DecodeOptions | null): Promise<Picture>;

/** A picture as it is to be seen, given its EXIF orientation: `oriented(picture, info(bytes).orientation)`. */
export function oriented(picture: Picture, orientation: number): Picture;

/** 178956970, as in Pillow. */
export const DEFAULT_MAX_PIXELS: number;

/** Root of all errors; names, codes and meanings are those of the Python package and of docs/format.md. */
export class VaecError extends Error {
  /** A stable upper-case word. */
  readonly code: string;
  /** The number of the tile at fault. */
  readonly tile: number | null;
}
export class VaecFormatError extends VaecError {}
export class VaecTruncatedError extends VaecError {}
export class VaecChecksumError extends VaecError {}
export class VaecUnsupportedError extends VaecError {}
export class VaecLimitError extends VaecError {}
export class VaecModelError extends VaecError {}
export class VaecCorruptError extends VaecError {}
export class VaecMismatchError extends VaecCorruptError {}
export class VaecImageError extends VaecError {}
export class VaecResourceError extends VaecError {}
