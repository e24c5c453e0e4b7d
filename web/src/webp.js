// Lossless WebP, by libwebp as the package @jsquash/webp has compiled it.

import create from '@jsquash/webp/codec/dec/webp_dec.js';
import { compiled } from './files.js';

let decoder = null;

/** Samples RGBA of a WebP file, or undefined if it is damaged. */
export async function decode(file) {
  decoder ??= await start();
  try {
    return decoder.decode(file)?.data;
  } catch {
    decoder = null; // whatever it was, the next file gets a new one
    return undefined;
  }
}

async function start() {
  const module = await compiled('webp.wasm');
  return create({
    noInitialRun: true,
    print: () => {},
    printErr: () => {},
    instantiateWasm(imports, done) {
      WebAssembly.instantiate(module, imports).then(done);
      return {};
    },
  });
}
