// The files beside this script: WebAssembly modules and weights, from a server or, in Node, from the disk.

import { VaecModelError } from './errors.js';

async function responseOf(name) {
  const url = new URL(name, import.meta.url);
  if (url.protocol === 'file:') {
    const { readFile } = await import('node:fs/promises');
    return new Response(await readFile(url), { headers: { 'Content-Type': name.endsWith('.wasm') ? 'application/wasm' : '' } });
  }
  const response = await fetch(url, { credentials: 'same-origin' });
  if (!response.ok) throw new VaecModelError(`${url}: ${response.status} ${response.statusText}`, 'MODEL_FILE');
  return response;
}

/** A compiled module. */
export async function compiled(name) {
  const response = await responseOf(name);
  if (/^application\/wasm\b/.test(response.headers.get('Content-Type') ?? '')) return WebAssembly.compileStreaming(response);
  return WebAssembly.compile(await response.arrayBuffer()); // of a server that does not know the type
}

/** The bytes of a file that was compressed by gzip; a server may have told so, and the browser have inflated them. */
export async function inflated(name) {
  const bytes = new Uint8Array(await (await responseOf(name)).arrayBuffer());
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
