// Damaged and hostile files: node test/fuzz.js COUNT [SEED]. Any but a VaecError with a code ends it.

import { crc32 } from '../src/crc32.js';
import { VaecError, decode } from '../dist/vaecodec.js';
import { manifest, vector } from './vectors.js';

const MAX_PIXELS = 1 << 18;
const HEADER_BYTES = 32, ENTRY_BYTES = 12;

/** Numbers below n that a seed decides (mulberry32). */
function randomBelow(seed) {
  let state = seed >>> 0;
  return (n) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * n);
  };
}

const EDGES = [0, 1, 0x7f, 0x80, 0xff];

/** One file out of two: bytes flipped, set, cut off, put in, or taken from the other. */
function mutant(below, one, other) {
  let bytes = one.slice();
  for (let n = 1 + below(4); n > 0 && bytes.length; n--) {
    const at = below(bytes.length), length = 1 + below(Math.min(64, bytes.length - at));
    switch (below(7)) {
      case 0: bytes[at] ^= 1 << below(8); break;
      case 1: bytes[at] = below(256); break;
      case 2: bytes[at] = EDGES[below(EDGES.length)]; break;
      case 3: bytes = bytes.slice(0, at); break;
      case 4: bytes = Uint8Array.of(...bytes.subarray(0, at), ...bytes.subarray(at + length)); break;
      case 5: bytes = Uint8Array.of(...bytes.subarray(0, at), ...bytes.subarray(at, at + length), ...bytes.subarray(at)); break;
      default: bytes.set(other.subarray(Math.min(at, other.length), Math.min(at + length, other.length)), at);
    }
  }
  return bytes;
}

/** Puts right the lengths and checksums that stand before what decoders are to be tried with. */
function forge(bytes) {
  if (bytes.length < HEADER_BYTES + ENTRY_BYTES) return bytes;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), size = 2 ** (bytes[21] & 15);
  const planes = bytes[7] & 2 ? 2 : 1;
  const tiles = planes * Math.ceil(view.getUint32(8, true) / size) * Math.ceil(view.getUint32(12, true) / size);
  const indexEnd = HEADER_BYTES + ENTRY_BYTES * tiles;
  if (!(indexEnd <= bytes.length)) return bytes;
  let start = indexEnd;
  for (let n = 0; n < tiles; n++) {
    const at = HEADER_BYTES + ENTRY_BYTES * n, modeLength = view.getUint32(at, true);
    const isLast = n === tiles - 1 && !(bytes[6] & 1);
    const length = isLast ? bytes.length - start : Math.min(modeLength & 0xfffffff, bytes.length - start);
    view.setUint32(at, ((modeLength >>> 28) << 28) | length, true);
    view.setUint32(at + 4, crc32(bytes.subarray(start, start + length)), true);
    start += length;
  }
  view.setUint32(24, bytes.length, true);
  view.setUint32(28, crc32(bytes.subarray(HEADER_BYTES, indexEnd), crc32(bytes.subarray(0, HEADER_BYTES - 4))), true);
  return bytes;
}

const SCALES = [1, 1, 1, 1 / 2, 1 / 4, 1 / 8];

/** Decodes `count` mutants; returns what was found, and raises what is no VaecError. */
export async function fuzz(count, seed = 1) {
  const below = randomBelow(seed), names = [...Object.keys(manifest.valid), ...Object.keys(manifest.invalid)];
  const seeds = names.map(vector), codes = {};
  let decoded = 0, slowest = 0, largestBytes = 0;
  for (let n = 0; n < count; n++) {
    const found = mutant(below, seeds[below(seeds.length)], seeds[below(seeds.length)]);
    const bytes = below(4) ? forge(found) : found, options = { scale: SCALES[below(SCALES.length)], maxPixels: MAX_PIXELS };
    const start = performance.now();
    try {
      await decode(bytes, options);
      decoded++;
    } catch (error) {
      if (!(error instanceof VaecError) || error.code === 'ERROR') {
        error.message += ` (mutant ${n} of seed ${seed}, ${JSON.stringify(options)}: ${Buffer.from(bytes).toString('hex')})`;
        throw error;
      }
      codes[error.code] = (codes[error.code] ?? 0) + 1;
    }
    slowest = Math.max(slowest, performance.now() - start);
    if (n % 64 === 0) largestBytes = Math.max(largestBytes, process.memoryUsage.rss());
  }
  return { count, seed, decoded, slowest_ms: Math.round(slowest), largest_mib: Math.round(largestBytes / 2 ** 20), codes };
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const [count, seed] = process.argv.slice(2).map(Number);
  console.log(JSON.stringify(await fuzz(count || 50000, seed || 1), null, 1));
}
