// The .vaec container: header, tile index and metadata from bytes, with the checks of docs/format.md in their order.

import { crc32 } from './crc32.js';
import {
  VaecChecksumError, VaecFormatError, VaecImageError, VaecLimitError, VaecTruncatedError, VaecUnsupportedError,
} from './errors.js';

export const DEFAULT_MAX_PIXELS = 178956970;
export const Mode = { LEARNED: 0, ZLIB: 1, SOLID: 2, WEBP: 3, CORRECTED: 4 };
export const MODE_NAMES = ['learned', 'zlib', 'solid', 'webp', 'corrected'];

const HEADER_BYTES = 32, ENTRY_BYTES = 12, CHUNK_BYTES = 12;
const MAX_SIDE = 2 ** 18, MAX_AREA = 2 ** 28, MAX_CHUNKS = 16, MAX_METADATA_BYTES = 8 * 2 ** 20;
const MAGIC = [0x89, 0x56, 0x41, 0x45];
const FORMATS = ['L', 'RGB', 'LA', 'RGBA'];
const CHUNKS = {
  ICCP: ['iccProfile', 4 * 2 ** 20],
  EXIF: ['exif', 2 ** 20],
  XMP_: ['xmp', 2 ** 20],
};

export const isLearned = (mode) => mode === Mode.LEARNED || mode === Mode.CORRECTED;

/**
 * Header, tile index and metadata, checked; payloads are not looked at.
 *
 * Of the result, `boxes` has where each tile lies, `entries` what the index says of it, with `start` and `end` of its
 * payload. Raises a VaecError of the class and code that docs/format.md lists for the check that failed; of a limit that
 * is none, a VaecImageError (ARGUMENT).
 */
export function readInfo(bytes, maxPixels = DEFAULT_MAX_PIXELS) {
  if (maxPixels !== null && !(typeof maxPixels === 'number' && maxPixels > 0))
    throw new VaecImageError(
      `maxPixels is ${typeof maxPixels === 'number' ? maxPixels : typeof maxPixels}, must be a number above 0, or null`, 'ARGUMENT');
  const header = parseHeader(bytes);
  const indexEnd = HEADER_BYTES + ENTRY_BYTES * header.tileCount;
  checkLength(bytes.length, header.fileBytes, indexEnd);
  const found = crc32(bytes.subarray(HEADER_BYTES, indexEnd), crc32(bytes.subarray(0, HEADER_BYTES - 4)));
  checkCrc('header and tile index', found, header.crc, 'HEADER_CRC');
  checkRange('quality', header.quality, 1, 100, VaecFormatError, 'QUALITY');
  checkRange('deblocking_cut', header.deblockingCut, 0, 64, VaecFormatError, 'DEBLOCKING');
  if (maxPixels !== null && header.width * header.height > maxPixels)
    throw new VaecLimitError(
      `width x height is ${header.width} x ${header.height}, must be at most ${maxPixels} pixels (maxPixels)`, 'MAX_PIXELS');
  const boxes = boxesOf(header), entries = parseIndex(bytes, boxes, indexEnd);
  const payloadsEnd = entries[entries.length - 1].end, left = header.fileBytes - payloadsEnd;
  if (left < 0 || (left && !header.hasMetadata))
    throw new VaecFormatError(
      `payloads end at byte ${payloadsEnd}, must end at file_bytes (${header.fileBytes})`, 'PAYLOAD_SUM');
  const metadata = header.hasMetadata ? readMetadata(bytes.subarray(payloadsEnd, header.fileBytes)) : {};
  return { header, boxes, entries, metadata };
}

/** The payload of a tile, its CRC checked. */
export function readPayload(bytes, number, entry) {
  const payload = bytes.subarray(entry.start, entry.end);
  checkCrc(`payload of tile ${number}`, crc32(payload), entry.payloadCrc, 'TILE_CRC', number);
  return payload;
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function parseHeader(bytes) {
  if (MAGIC.some((byte, at) => bytes[at] !== byte))
    throw new VaecFormatError('these bytes do not begin as a .vaec file', 'BAD_MAGIC');
  if (bytes.length < HEADER_BYTES)
    throw new VaecTruncatedError(`file has ${bytes.length} bytes, must have at least ${HEADER_BYTES}`, 'SHORT_HEADER');
  const view = viewOf(bytes);
  checkRange('version', bytes[4], 1, 1, VaecUnsupportedError, 'VERSION');
  checkRange('flags_incompat', bytes[5], 0, 0, VaecUnsupportedError, 'FEATURE');
  checkRange('reserved', bytes[22], 0, 0, VaecUnsupportedError, 'RESERVED');
  const width = view.getUint32(8, true), height = view.getUint32(12, true), size = `width x height is ${width} x ${height}`;
  if (width < 1 || height < 1) throw new VaecFormatError(`${size}, must be at least 1 x 1`, 'ZERO_DIM');
  if (Math.max(width, height) > MAX_SIDE || width * height > MAX_AREA)
    throw new VaecLimitError(`${size}, must be at most ${MAX_SIDE} a side, ${MAX_AREA} in all`, 'FORMAT_DIM');
  checkRange('pixel_format', bytes[7], 0, 3, VaecFormatError, 'PIXEL_FORMAT');
  checkRange('tile_log2', bytes[21], 8, 12, VaecFormatError, 'TILE');
  const format = FORMATS[bytes[7]], tileSize = 2 ** bytes[21], hasAlpha = format.endsWith('A');
  const rows = Math.ceil(height / tileSize), columns = Math.ceil(width / tileSize);
  return {
    width, height, format, hasAlpha, tileSize, rows, columns,
    colours: format.length - hasAlpha,
    tileCount: rows * columns * (1 + hasAlpha),
    hasMetadata: (bytes[6] & 1) === 1,
    modelId: Array.from(bytes.subarray(16, 20), (byte) => byte.toString(16).padStart(2, '0')).join(''),
    quality: bytes[20],
    deblockingCut: bytes[23],
    fileBytes: view.getUint32(24, true),
    crc: view.getUint32(28, true),
  };
}

/** Where tiles lie, in pixels, in index order; `channels` are those of the plane. */
function boxesOf({ width, height, tileSize, rows, columns, hasAlpha, colours }) {
  const boxes = [];
  for (const channels of hasAlpha ? [colours, 1] : [colours])
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) {
        const top = row * tileSize, left = column * tileSize;
        boxes.push({
          isAlpha: boxes.length >= rows * columns, top, left, channels,
          height: Math.min(tileSize, height - top), width: Math.min(tileSize, width - left),
        });
      }
  return boxes;
}

function checkLength(found, fileBytes, indexEnd) {
  if (found < indexEnd)
    throw new VaecTruncatedError(`file has ${found} bytes, must have ${indexEnd} for its tile index`, 'SHORT_FILE');
  if (found > fileBytes)
    throw new VaecFormatError(`file has more than ${fileBytes} bytes (file_bytes), must end there`, 'TRAILING_DATA');
  if (found < fileBytes)
    throw new VaecTruncatedError(`file has ${found} bytes, must have ${fileBytes} (file_bytes)`, 'SHORT_FILE');
}

function parseIndex(bytes, boxes, indexEnd) {
  const view = viewOf(bytes);
  let start = indexEnd;
  return boxes.map((box, number) => {
    const at = HEADER_BYTES + number * ENTRY_BYTES, modeLength = view.getUint32(at, true);
    const mode = modeLength >>> 28, length = modeLength & 0xfffffff;
    checkTile(number, box, mode, length);
    const entry = {
      mode, start, end: start + length,
      payloadCrc: view.getUint32(at + 4, true),
      contentCrc: view.getUint32(at + 8, true),
    };
    start += length;
    return entry;
  });
}

function checkTile(number, box, mode, length) {
  if (mode > Mode.CORRECTED || (box.isAlpha && isLearned(mode)))
    throw new VaecFormatError(`mode of tile ${number} is ${mode}, must be 0 to 4, of alpha 1 to 3`, 'TILE_MODE', number);
  const raw = box.height * box.width * box.channels, slack = Math.floor(raw / 1000);
  const [least, most] = [
    [4, raw + 64], [9, raw + slack + 64], [box.channels, box.channels], [26, raw + slack + 1024], [40, 2 * raw + slack + 1098],
  ][mode];
  if (length < least || length > most || (mode === Mode.LEARNED && length % 4))
    throw new VaecFormatError(`payload of tile ${number} has ${length} bytes, must have ${least} to ${most}`, 'TILE_LEN', number);
}

function readMetadata(bytes) {
  if (bytes.length > MAX_METADATA_BYTES)
    throw new VaecLimitError(`metadata has ${bytes.length} bytes, must have at most ${MAX_METADATA_BYTES}`, 'META_LIMIT');
  const view = viewOf(bytes), metadata = {}, seen = [];
  for (let at = 0; at < bytes.length || !seen.length;) {
    const left = bytes.length - at - CHUNK_BYTES;
    if (left < 0)
      throw new VaecFormatError(`metadata has ${left + CHUNK_BYTES} bytes left, a chunk has at least ${CHUNK_BYTES}`, 'META');
    const type = String.fromCharCode(...bytes.subarray(at, at + 4)), length = view.getUint32(at + 4, true);
    if (length > left) throw new VaecFormatError(`length of metadata chunk is ${length}, must be at most ${left}`, 'META');
    checkChunk(type, length, seen);
    const data = bytes.subarray(at + CHUNK_BYTES, at + CHUNK_BYTES + length);
    checkCrc(`metadata chunk ${type}`, crc32(data, crc32(bytes.subarray(at, at + 8))), view.getUint32(at + 8, true), 'META_CRC');
    seen.push(type);
    if (Object.hasOwn(CHUNKS, type)) metadata[CHUNKS[type][0]] = data.slice();
    at += CHUNK_BYTES + length;
  }
  return metadata;
}

function checkChunk(type, length, seen) {
  const known = Object.hasOwn(CHUNKS, type);
  if (!/^[A-Z0-9_]{4}$/.test(type)) throw new VaecFormatError('metadata chunk type must be of A-Z, 0-9 and _', 'META');
  if (known && seen.includes(type)) throw new VaecFormatError(`metadata chunk ${type} comes twice, must come once`, 'META');
  if (seen.length === MAX_CHUNKS) throw new VaecLimitError(`metadata has more than ${MAX_CHUNKS} chunks`, 'META_LIMIT');
  if (known && length > CHUNKS[type][1])
    throw new VaecLimitError(`metadata chunk ${type} has ${length} bytes, must have at most ${CHUNKS[type][1]}`, 'META_LIMIT');
}

function checkRange(name, value, least, most, Kind, code) {
  if (value < least || value > most) {
    const hint = Kind === VaecUnsupportedError ? ': a newer vaecodec may read this file' : '';
    throw new Kind(`${name} is ${value}, must be ${least === most ? least : `${least} to ${most}`}${hint}`, code);
  }
}

function checkCrc(what, found, stored, code, tile = null) {
  if (found !== stored) throw new VaecChecksumError(`CRC-32 of ${what} does not hold: the file is damaged`, code, tile);
}
