// What the package is imported for: decoding .vaec files, in a worker where there are workers.

import { DEFAULT_MAX_PIXELS, MODE_NAMES, readInfo } from './container.js';
import { VaecFormatError, VaecImageError, VaecResourceError, fromPlain, toPlain } from './errors.js';
import { orientationOf } from './orientation.js';

export {
  VaecChecksumError, VaecCorruptError, VaecError, VaecFormatError, VaecImageError, VaecLimitError, VaecMismatchError,
  VaecModelError, VaecResourceError, VaecTruncatedError, VaecUnsupportedError,
} from './errors.js';
export { oriented } from './orientation.js';
export { DEFAULT_MAX_PIXELS };

/**
 * Tells of a file what can be known without its pixels.
 *
 * @example
 * info(bytes).width
 */
export function info(bytes, options) {
  const { header, entries, metadata } = readInfo(asBytes(bytes), options?.maxPixels);
  const { width, height, format, quality, tileSize, modelId, deblockingCut, fileBytes } = header;
  return {
    width, height, format, quality, tileSize, modelId, deblockingCut, fileBytes,
    tiles: entries.map(({ mode }) => MODE_NAMES[mode]),
    metadata,
    orientation: orientationOf(metadata.exif),
  };
}

/**
 * Decodes a picture: RGBA, not premultiplied, as ImageData, or as a plain object where there is none.
 *
 * @example
 * context.putImageData(await decode(bytes), 0, 0)
 */
export async function decode(bytes, options) {
  const { scale, region, maxPixels } = options ?? {}, checked = asBytes(bytes);
  const { picture, error } = await (hasWorkers ? inWorker : inThisThread)(checked, { scale, region, maxPixels });
  if (error) throw fromPlain(error);
  const { width, height, data } = picture;
  return typeof ImageData === 'function' && hasWorkers ? new ImageData(data, width, height) : picture;
}

/** By what they are, not by their class: those of frames and of Node's vm have classes of their own. */
function asBytes(bytes) {
  if (Object.prototype.toString.call(bytes) === '[object ArrayBuffer]') return new Uint8Array(bytes);
  if (ArrayBuffer.isView(bytes)) return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  throw new VaecFormatError('expected an ArrayBuffer, or a view of one', 'SOURCE');
}

// --- workers ---

const hasWorkers = typeof Worker === 'function' && typeof document === 'object';
const MOST_WORKERS = hasWorkers ? Math.min(4, Math.max(1, Math.floor((navigator.hardwareConcurrency || 2) / 2))) : 0;
const workers = [];
let lastId = 0;

async function inThisThread(bytes, options) {
  return (await import('./decoder.js')).answer(bytes, options);
}

function inWorker(bytes, options) {
  const worker = freeWorker(), id = ++lastId;
  return new Promise((resolve) => {
    worker.waiting.set(id, resolve);
    try {
      worker.thread.postMessage({ id, bytes, options });
    } catch (error) { // a function, say, cannot be sent to another thread
      worker.waiting.delete(id);
      resolve({ error: toPlain(new VaecImageError(`options cannot be sent to the decoder: ${error.message}`, 'ARGUMENT')) });
    }
  });
}

/** The worker with the least to do; another one if all are busy. */
function freeWorker() {
  const [least] = workers.toSorted((a, b) => a.waiting.size - b.waiting.size);
  return least && (!least.waiting.size || workers.length >= MOST_WORKERS) ? least : newWorker();
}

function newWorker() {
  const worker = { thread: new Worker(new URL('./worker.js', import.meta.url), { type: 'module' }), waiting: new Map() };
  worker.thread.onmessage = ({ data: { id, ...answer } }) => {
    worker.waiting.get(id)(answer);
    worker.waiting.delete(id);
  };
  worker.thread.onerror = (event) => {
    workers.splice(workers.indexOf(worker), 1);
    worker.thread.terminate();
    const message = `the decoder's worker has failed: ${event.message ?? 'it did not load'}`;
    const error = toPlain(new VaecResourceError(message, 'WORKER'));
    for (const resolve of worker.waiting.values()) resolve({ error });
  };
  workers.push(worker);
  return worker;
}
