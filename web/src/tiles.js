// Tiles that are not the network's alone: WebP, zlib, one colour, and corrections of learned ones.

import { crc32 } from './crc32.js';
import { Mode } from './container.js';
import { VaecCorruptError, VaecMismatchError } from './errors.js';

const WEBP_HEAD_BYTES = 25;
const LEFT = 1, UP = 2, PLANES = 4;
const CORRECTION_HEAD_BYTES = 9;
const STEPS = new Set([2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 24, 28, 32, 40, 48, 64]);

/**
 * Samples Uint8Array [h, w, C] of a tile that is not learned.
 *
 * Raises VaecCorruptError (WEBP, ZLIB) if the payload cannot be read, VaecMismatchError (SAMPLES_CRC) if it does not
 * decode to what was encoded.
 */
export async function decodePlain(entry, payload, box) {
  const samples = entry.mode === Mode.SOLID ? solid(payload, box)
    : await (entry.mode === Mode.WEBP ? unpackWebp : unpackZlib)(payload, box);
  if (crc32(samples) !== entry.contentCrc)
    throw new VaecMismatchError('samples do not have the CRC that the file says', 'SAMPLES_CRC');
  return samples;
}

/** What the network decodes of a learned payload; raises VaecCorruptError (CORRECTION). */
export function learnedPart(entry, payload) {
  if (entry.mode !== Mode.CORRECTED) return payload;
  const { learnedBytes, step } = correctionHead(payload), end = CORRECTION_HEAD_BYTES + learnedBytes;
  if (end >= payload.length || !STEPS.has(step))
    throw new VaecCorruptError(`${learnedBytes} of ${payload.length} bytes are learned and the step is ${step}`, 'CORRECTION');
  return payload.subarray(CORRECTION_HEAD_BYTES, end);
}

/** The step of a corrected tile, and its symbols Uint8Array [h, w, C]; raises as `decodePlain`, and CORRECTION_CRC. */
export async function correctionOf(payload, box) {
  const { learnedBytes, crc, step } = correctionHead(payload);
  const symbols = await unpackWebp(payload.subarray(CORRECTION_HEAD_BYTES + learnedBytes), box);
  if (crc32(symbols) !== crc)
    throw new VaecMismatchError('the correction does not decode to what was encoded', 'CORRECTION_CRC');
  return { step, symbols };
}

function correctionHead(payload) {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  return { learnedBytes: view.getUint32(0, true), crc: view.getUint32(4, true), step: payload[8] };
}

function solid(payload, { height, width, channels }) {
  const samples = new Uint8Array(height * width * channels);
  if (channels === 1) return samples.fill(payload[0]);
  for (let at = 0; at < samples.length; at++) samples[at] = payload[at % channels];
  return samples;
}

async function unpackWebp(payload, { height, width, channels }) {
  const corrupt = (what) => new VaecCorruptError(`lossless payload: ${what}`, 'WEBP');
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const has = (at, text) => [...text].every((letter, n) => payload[at + n] === letter.charCodeAt(0));
  if (payload.length < WEBP_HEAD_BYTES || !has(0, 'RIFF') || !has(8, 'WEBPVP8L') || payload[20] !== 0x2f)
    throw corrupt('a WebP file without loss and nothing else is allowed');
  const chunk = view.getUint32(16, true), sizes = view.getUint32(21, true);
  if (view.getUint32(4, true) !== payload.length - 8 || chunk + (chunk % 2) !== payload.length - 20)
    throw corrupt('the WebP file has another length than it says');
  if ((sizes & 0x3fff) !== width - 1 || ((sizes >>> 14) & 0x3fff) !== height - 1 || sizes >>> 28)
    throw corrupt(`the WebP file must have ${width} x ${height} pixels and no alpha`);
  // Loaded when the first file needs it: most have no such tile.
  const rgba = await (await import('./webp.js')).decode(payload);
  if (rgba?.length !== 4 * height * width) throw corrupt('the WebP file is damaged');
  const samples = new Uint8Array(height * width * channels);
  for (let from = 0, to = 0; to < samples.length; from += 4)
    for (let c = 0; c < channels; c++) samples[to++] = rgba[from + c];
  return samples;
}

async function unpackZlib(payload, { height, width, channels }) {
  const corrupt = (what) => new VaecCorruptError(`lossless payload: ${what}`, 'ZLIB');
  const bits = payload[0], count = height * width * channels;
  if (bits > (channels === 3 ? LEFT | UP | PLANES : LEFT | UP)) throw corrupt(`filter byte is ${bits}`);
  const samples = (await import('./zlib.js')).inflate(payload.subarray(1), count);
  if (!samples) throw corrupt(`the zlib stream is damaged or does not hold exactly ${count} bytes`);
  const planes = bits & PLANES ? 3 : 1, inside = bits & PLANES ? 1 : channels; // samples side by side
  const row = width * inside, plane = height * row;
  for (let start = 0; start < planes * plane; start += plane) {
    if (bits & UP) for (let at = start + row; at < start + plane; at++) samples[at] += samples[at - row];
    if (bits & LEFT)
      for (let y = start; y < start + plane; y += row)
        for (let at = y + inside; at < y + row; at++) samples[at] += samples[at - inside];
  }
  if (!(bits & PLANES)) return samples;
  const together = new Uint8Array(count);
  for (let n = 0, to = 0; n < plane; n++, to += 3) {
    const green = samples[plane + n];
    together[to] = samples[n] + green;
    together[to + 1] = green;
    together[to + 2] = samples[2 * plane + n] + green;
  }
  return together;
}
