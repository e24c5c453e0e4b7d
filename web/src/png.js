// Pictures as PNG without compression: what browsers take from a script as a picture, with its ICC profile.

import { crc32 } from './crc32.js';

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const RGBA = 6, MOST_STORED = 0xffff, ADLER = 65521, ADLER_RUN = 3800; // bytes whose sums stay below 2^31

/** A Blob of { width, height, data }, RGBA, and an ICC profile or nothing. */
export function toPng({ width, height, data }, iccProfile) {
  const header = new Uint8Array(13), view = new DataView(header.buffer), row = 4 * width;
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, RGBA], 8);
  const lines = new Uint8Array(height * (row + 1));
  for (let y = 0; y < height; y++) lines.set(data.subarray(y * row, (y + 1) * row), y * (row + 1) + 1);
  const profile = iccProfile ? [chunk('iCCP', new TextEncoder().encode('ICC\0\0'), stored(iccProfile))] : [];
  const parts = [Uint8Array.from(SIGNATURE), chunk('IHDR', header), ...profile, chunk('IDAT', stored(lines)), chunk('IEND')];
  return new Blob(parts, { type: 'image/png' });
}

function chunk(type, ...parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0), bytes = new Uint8Array(length + 12);
  const view = new DataView(bytes.buffer);
  let at = 8;
  view.setUint32(0, length);
  bytes.set(new TextEncoder().encode(type), 4);
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  view.setUint32(at, crc32(bytes.subarray(4, at)));
  return bytes;
}

/** A zlib stream that stores bytes as they are. */
function stored(bytes) {
  const blocks = Math.max(1, Math.ceil(bytes.length / MOST_STORED)), out = new Uint8Array(bytes.length + 5 * blocks + 6);
  const view = new DataView(out.buffer);
  out.set([0x78, 0x01]);
  let to = 2;
  for (let n = 0; n < blocks; n++) {
    const part = bytes.subarray(n * MOST_STORED, (n + 1) * MOST_STORED);
    out[to] = n === blocks - 1 ? 1 : 0;
    view.setUint16(to + 1, part.length, true);
    view.setUint16(to + 3, ~part.length & 0xffff, true);
    out.set(part, to + 5);
    to += 5 + part.length;
  }
  let a = 1, b = 0;
  for (let at = 0; at < bytes.length; a %= ADLER, b %= ADLER)
    for (const end = Math.min(bytes.length, at + ADLER_RUN); at < end; at++) b += a += bytes[at];
  view.setUint32(to, b * 0x10000 + a);
  return out;
}
