// The conformance vectors of the repository, and how pictures are compared with them; also for the page that Chromium runs.

import { readFileSync } from 'node:fs';
import { PNG } from 'pngjs';

const FOLDER = new URL('../../tests/conformance/', import.meta.url);

export const manifest = JSON.parse(readFileSync(new URL('manifest.json', FOLDER)));
export const vector = (name) => new Uint8Array(readFileSync(new URL(`vectors/${name}.vaec`, FOLDER)));

/** The picture that a valid vector decodes to, in RGBA. */
export function expected(name) {
  return PNG.sync.read(readFileSync(new URL(`vectors/${name}.png`, FOLDER)));
}

/** What is wrong with a decoded picture { width, height, data }, in words; null if it is the expected one. */
export function disagreement(name, { width, height, data }) {
  const facts = manifest.valid[name], picture = expected(name);
  if (width !== picture.width || height !== picture.height) return `size is ${width} x ${height}`;
  if (facts.largest_difference === undefined) return null; // latents that no picture has: only the integers count
  let differing = 0, largest = 0;
  for (let at = 0; at < data.length; at++) {
    // Grey became three equal colours: count it once.
    if (facts.mode.startsWith('L') && (at % 4 === 1 || at % 4 === 2)) continue;
    if (!facts.mode.endsWith('A') && at % 4 === 3 && data[at] === 255) continue;
    const difference = Math.abs(data[at] - picture.data[at]);
    largest = Math.max(largest, difference);
    differing += difference > 0;
  }
  if (largest > facts.largest_difference) return `differs by ${largest} levels, at most ${facts.largest_difference} is allowed`;
  if (differing > facts.differing_samples) return `differs in ${differing} samples, at most ${facts.differing_samples} is allowed`;
  return null;
}
