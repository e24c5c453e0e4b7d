// Zlib streams of older files' tiles, by pako.

import { Inflate } from 'pako/browser/inflate';

/** Exactly `count` bytes of a zlib stream that ends where the bytes do; null for any other. */
export function inflate(stream, count) {
  const out = new Uint8Array(count), inflater = new Inflate({ chunkSize: Math.min(count + 1, 1 << 16) });
  let filled = 0;
  inflater.onData = (chunk) => {
    if (filled + chunk.length <= count) out.set(chunk, filled);
    filled += chunk.length;
    if (filled > count) throw TOO_LONG;
  };
  inflater.onEnd = () => {};
  try {
    inflater.push(stream, true);
  } catch (error) {
    if (error !== TOO_LONG) throw error;
    return null;
  }
  return !inflater.err && inflater.ended && !inflater.strm.avail_in && filled === count ? out : null;
}

const TOO_LONG = Symbol('more bytes than a tile has');
