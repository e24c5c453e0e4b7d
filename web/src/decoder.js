// A file to a picture: all of it, a window of it, or a preview, touching only the tiles that it needs.

import { DEFAULT_MAX_PIXELS, Mode, isLearned, readInfo, readPayload } from './container.js';
import { Engine, STRIDE, parseWeights } from './engine.js';
import { VaecCorruptError, VaecImageError, VaecMismatchError, VaecModelError, toPlain } from './errors.js';
import { compiled, inflated } from './files.js';
import { correctionOf, decodePlain, learnedPart } from './tiles.js';
import MODELS from '../build/models.json';

const CORE = 'vaecodec.wasm';
const MOST_PART = 1024; // pixels a side that are synthesized at once: more take more memory, and no less time
const SCALE_OF_BASE = 8; // at which a preview needs no more than the base of the latents

/** The answer to a request of the page: { picture }, or { error } as plain data, which crosses between threads. */
export async function answer(bytes, options) {
  try {
    return { picture: await decodeHere(bytes, options) };
  } catch (error) {
    return { error: toPlain(error) };
  }
}

/**
 * Samples RGBA of a .vaec file, as { width, height, data }.
 *
 * Options: `scale` 1, 1/2, 1/4 or 1/8; or `region` [left, top, right, bottom] in pixels; `maxPixels`, null for no limit
 * but the format's. Raises VaecError.
 */
async function decodeHere(bytes, { scale = 1, region = null, maxPixels = DEFAULT_MAX_PIXELS } = {}) {
  if (![1, 1 / 2, 1 / 4, 1 / 8].includes(scale))
    throw new VaecImageError(`scale is ${scale}, must be 1, 1/2, 1/4 or 1/8`, 'ARGUMENT');
  if (region && scale !== 1) throw new VaecImageError('a region has the scale 1', 'ARGUMENT');
  const info = readInfo(bytes, maxPixels), window = windowOf(region, info.header);
  if (!region) info.entries.forEach((entry, number) => readPayload(bytes, number, entry));
  const engine = info.entries.some(({ mode }) => isLearned(mode)) ? await engineFor(info.header.modelId) : null;
  return new Picture(bytes, info, engine, window, 1 / scale).decode();
}

function windowOf(region, { width, height }) {
  if (!region) return { left: 0, top: 0, right: width, bottom: height };
  const [left, top, right, bottom] = Array.isArray(region) ? region : [];
  if (![left, top, right, bottom].every(Number.isInteger) || region.length !== 4
    || !(left >= 0 && left < right && right <= width && top >= 0 && top < bottom && bottom <= height))
    throw new VaecImageError(
      `region is ${region}, must be whole numbers left, top, right, bottom, not empty, within ${width} x ${height} pixels`, 'BOX');
  return { left, top, right, bottom };
}

// --- engines ---

const engines = new Map();

/** The engine of a model, its weights loaded when a file needs them first. */
async function engineFor(modelId) {
  const name = Object.hasOwn(MODELS, modelId) ? MODELS[modelId] : null;
  if (!name) throw new VaecModelError(`the file needs the weights ${modelId}, which are not here`, 'MODEL_MISSING');
  if ((await engines.get(modelId)?.catch(() => null))?.isDead !== false)
    engines.set(modelId, Promise.all([compiled(CORE), inflated(name).then(parseWeights)]).then((parts) => Engine.create(...parts)));
  return engines.get(modelId);
}

// --- pictures ---

/** One picture, or a part of it, on its way out of tiles. */
class Picture {
  constructor(bytes, { header, boxes, entries, metadata }, engine, window, scale) {
    Object.assign(this, { bytes, header, boxes, entries, metadata, engine, window, scale });
    this.latents = new Map(); // by number of the tile, of those that are learned and may still be needed
    // What synthesis sees beyond the window.
    const margin = engine && scale === 1 ? engine.margin * STRIDE : 0;
    this.reach = Math.ceil(margin / header.tileSize);
    this.seen = {
      left: Math.max(0, window.left - margin), right: Math.min(header.width, window.right + margin),
      top: Math.max(0, window.top - margin), bottom: Math.min(header.height, window.bottom + margin),
    };
    this.width = Math.ceil((window.right - window.left) / scale);
    this.height = Math.ceil((window.bottom - window.top) / scale);
  }

  async decode() {
    this.data = new Uint8ClampedArray(4 * this.width * this.height).fill(255);
    const seen = this.#tilesUnder(this.seen), shown = this.#tilesUnder(this.window);
    for (let row = seen.firstRow; row < seen.lastRow + this.reach; row++) {
      if (row < seen.lastRow) for (let column = seen.firstColumn; column < seen.lastColumn; column++) this.#read(row, column);
      const ready = row - this.reach;
      if (ready >= shown.firstRow && ready < shown.lastRow)
        for (let column = shown.firstColumn; column < shown.lastColumn; column++) await this.#show(ready, column);
      for (let column = seen.firstColumn; column < seen.lastColumn; column++)
        this.latents.delete(this.#number(ready - this.reach, column));
    }
    return { width: this.width, height: this.height, data: this.data };
  }

  #number(row, column) { return row * this.header.columns + column; }

  #tilesUnder({ left, top, right, bottom }) {
    const size = this.header.tileSize;
    return {
      firstRow: Math.floor(top / size), lastRow: Math.ceil(bottom / size),
      firstColumn: Math.floor(left / size), lastColumn: Math.ceil(right / size),
    };
  }

  /** Puts the latents of a tile in place, if it is learned. */
  #read(row, column) {
    const number = this.#number(row, column), entry = this.entries[number];
    if (!isLearned(entry.mode)) return;
    const { rows, columns } = latentsOf(this.boxes[number]), payload = readPayload(this.bytes, number, entry);
    const baseOnly = this.scale === SCALE_OF_BASE;
    const latents = intact(number, () => this.engine.decode(
      learnedPart(entry, payload), rows, columns, this.header.quality, entry.contentCrc, baseOnly));
    this.latents.set(number, latents);
  }

  /** Puts what a tile shows, in colour and alpha, into the picture. */
  async #show(row, column) {
    const number = this.#number(row, column);
    if (isLearned(this.entries[number].mode)) await this.#showLearned(number);
    else await this.#showPlain(number);
    if (!this.header.hasAlpha) return;
    const alpha = await this.#showPlain(this.header.rows * this.header.columns + number);
    if (this.scale > 1 && alpha.some((value) => value !== alpha[0])) await this.#weighByAlpha(number);
  }

  /** A plain tile; returns its samples in full size. */
  async #showPlain(number) {
    const box = this.boxes[number], entry = this.entries[number], payload = readPayload(this.bytes, number, entry);
    const samples = await intactLater(number, () => decodePlain(entry, payload, box));
    if (this.scale > 1) this.#put(reduced(samples, box, this.scale), box, this.#reducedBox(box));
    else this.#put(samples, box, box);
    return samples;
  }

  async #showLearned(number) {
    const box = this.boxes[number], latents = this.latents.get(number), { rows, columns } = latentsOf(box);
    if (this.scale > 1) {
      const pixels = this.engine.preview(latents, rows, columns, this.scale), side = STRIDE / this.scale;
      return this.#put(this.#inChannels(pixels), box, { ...this.#reducedBox(box), width: side * columns, height: side * rows });
    }
    const correction = this.entries[number].mode === Mode.CORRECTED ? await this.#correction(number, box) : null;
    // From the latent that the first pixel of the window is in, part by part.
    const start = (from, first) => Math.floor(Math.max(from, first) / STRIDE) * STRIDE;
    const bottom = Math.min(this.window.bottom, box.top + box.height), right = Math.min(this.window.right, box.left + box.width);
    for (let top = start(this.window.top, box.top); top < bottom; top += MOST_PART)
      for (let left = start(this.window.left, box.left); left < right; left += MOST_PART) {
        const height = Math.min(MOST_PART, bottom - top), width = Math.min(MOST_PART, right - left);
        this.#synthesize(number, { top, left, height, width }, box, correction);
      }
  }

  async #correction(number, box) {
    const payload = readPayload(this.bytes, number, this.entries[number]);
    return intactLater(number, () => correctionOf(payload, box));
  }

  /** Synthesizes a part of a tile, which begins on the grid of latents. */
  #synthesize(number, part, box, correction) {
    const [top, bottom] = around(part.top, part.height, this.seen.top, this.seen.bottom, this.engine.margin);
    const [left, right] = around(part.left, part.width, this.seen.left, this.seen.right, this.engine.margin);
    const pixels = intact(number, () => this.engine.synthesize(
      bottom - top, right - left, this.header.quality, this.header.deblockingCut, (y) => this.#fill(y, top, bottom, left, right)));
    const found = { top: top * STRIDE, left: left * STRIDE, height: (bottom - top) * STRIDE, width: (right - left) * STRIDE };
    const samples = this.#inChannels(pixels);
    if (correction) correct(samples, found, part, correction, box);
    this.#put(samples, { ...part, channels: box.channels }, { ...found, channels: box.channels });
  }

  /** Latents y [rows, columns, M] of an area of the grid, zeros where tiles are not learned. */
  #fill(y, top, bottom, left, right) {
    const side = this.header.tileSize / STRIDE, channels = this.engine.latents, stride = (right - left) * channels;
    y.fill(0);
    for (let row = Math.floor(top / side); row * side < bottom; row++)
      for (let column = Math.floor(left / side); column * side < right; column++) {
        const number = this.#number(row, column), latents = this.latents.get(number);
        if (!latents) continue;
        const { rows, columns } = latentsOf(this.boxes[number]), tileTop = row * side, tileLeft = column * side;
        const first = Math.max(left, tileLeft), last = Math.min(right, tileLeft + columns);
        for (let at = Math.max(top, tileTop); at < Math.min(bottom, tileTop + rows); at++) {
          const from = ((at - tileTop) * columns + first - tileLeft) * channels;
          y.set(latents.subarray(from, from + (last - first) * channels), (at - top) * stride + (first - left) * channels);
        }
      }
  }

  /** Pixels [h, w, 3] in the channels of the colour plane. */
  #inChannels(pixels) {
    if (this.header.colours === 3) return pixels;
    const grey = new Uint8Array(pixels.length / 3);
    for (let n = 0, at = 0; n < grey.length; n++, at += 3)
      grey[n] = Math.floor((pixels[at] + pixels[at + 1] + pixels[at + 2] + 1) / 3);
    return grey;
  }

  /** A tile in the small picture. */
  #reducedBox(box) {
    const small = (value) => Math.ceil(value / this.scale);
    return { ...box, top: box.top / this.scale, left: box.left / this.scale, width: small(box.width), height: small(box.height) };
  }

  /** Where alpha differs within a tile, colours count as much as their alpha, which needs them in full size. */
  async #weighByAlpha(number) {
    const box = this.boxes[number];
    const window = { left: box.left, top: box.top, right: box.left + box.width, bottom: box.top + box.height };
    try {
      const whole = await new Picture(this.bytes, this, this.engine, window, 1).decode();
      const rgba = { ...box, channels: 4 };
      this.#put(reducedByAlpha(whole.data, rgba, this.scale), rgba, this.#reducedBox(rgba));
    } catch (error) {
      if (!(error instanceof VaecCorruptError)) throw error; // beside it, or in what the preview did without: it stays
    }
  }

  /** Puts samples of the area `found` into the picture: what `part` of it lies in the window. */
  #put(samples, part, found) {
    const { channels, isAlpha } = part, { width, height, data } = this;
    const originTop = this.scale > 1 ? 0 : this.window.top, originLeft = this.scale > 1 ? 0 : this.window.left;
    const inside = this.scale > 1 ? this.#reducedBox(part) : part;
    const top = Math.max(inside.top, originTop), bottom = Math.min(inside.top + inside.height, originTop + height);
    const left = Math.max(inside.left, originLeft), right = Math.min(inside.left + inside.width, originLeft + width);
    for (let y = top; y < bottom; y++) {
      let from = ((y - found.top) * found.width + left - found.left) * channels;
      let to = 4 * ((y - originTop) * width + left - originLeft);
      for (let x = left; x < right; x++, to += 4, from += channels) {
        if (isAlpha) data[to + 3] = samples[from];
        else {
          data[to] = samples[from];
          data[to + 1] = samples[channels > 2 ? from + 1 : from];
          data[to + 2] = samples[channels > 2 ? from + 2 : from];
          if (channels === 4) data[to + 3] = samples[from + 3];
        }
      }
    }
  }
}

const latentsOf = ({ height, width }) => ({ rows: Math.ceil(height / STRIDE), columns: Math.ceil(width / STRIDE) });

/** First and last latent of a stretch of pixels that begins on their grid, with a margin, within that which is seen. */
function around(start, length, seenStart, seenEnd, margin) {
  const first = start / STRIDE, last = Math.ceil((start + length) / STRIDE);
  return [Math.max(Math.floor(seenStart / STRIDE), first - margin), Math.min(Math.ceil(seenEnd / STRIDE), last + margin)];
}

/** Adds a correction of a tile to the part of samples of the area `found`, in place. */
function correct(samples, found, part, { step, symbols }, { top, left, width, height, channels }) {
  for (let y = part.top; y < Math.min(part.top + part.height, top + height); y++) {
    let at = ((y - found.top) * found.width + part.left - found.left) * channels;
    let from = ((y - top) * width + part.left - left) * channels;
    for (let n = Math.min(part.width, left + width - part.left) * channels; n > 0; n--, at++, from++)
      samples[at] = Math.min(255, Math.max(0, samples[at] + step * (symbols[from] - 128)));
  }
}

/** Rounded to the nearest, halves to even, as numpy does. */
function rounded(value) {
  const whole = Math.floor(value), rest = value - whole;
  return rest > 0.5 || (rest === 0.5 && whole % 2) ? whole + 1 : whole;
}

/** The means of blocks of scale x scale samples; at the right and bottom the tile goes on as it ends. */
function reduced(samples, { height, width, channels }, scale) {
  const small = new Uint8Array(Math.ceil(height / scale) * Math.ceil(width / scale) * channels);
  eachBlock(height, width, channels, scale, (places, to) => {
    for (let c = 0; c < channels; c++) {
      let sum = 0;
      for (const at of places) sum += samples[at + c];
      small[to + c] = rounded(sum / places.length);
    }
  });
  return small;
}

/** The same of RGBA, with colours by their alpha. */
function reducedByAlpha(samples, { height, width }, scale) {
  const small = new Uint8Array(Math.ceil(height / scale) * Math.ceil(width / scale) * 4);
  eachBlock(height, width, 4, scale, (places, to) => {
    let weight = 0;
    for (const at of places) weight += samples[at + 3];
    for (let c = 0; c < 3; c++) {
      let sum = 0;
      for (const at of places) sum += samples[at + c] * (weight ? samples[at + 3] : 1);
      small[to + c] = rounded(Math.fround(sum / (weight || places.length)));
    }
    small[to + 3] = rounded(weight / places.length);
  });
  return small;
}

/** work(places of a block's pixels in the samples, place of what it becomes) */
function eachBlock(height, width, channels, scale, work) {
  const places = new Int32Array(scale * scale);
  for (let y = 0, to = 0; y < height; y += scale)
    for (let x = 0; x < width; x += scale, to += channels) {
      for (let n = 0; n < places.length; n++) {
        const row = Math.min(height - 1, y + Math.floor(n / scale)), column = Math.min(width - 1, x + (n % scale));
        places[n] = (row * width + column) * channels;
      }
      work(places, to);
    }
}

/** The result of work on a tile whose payload has its CRC; what is wrong with it is no damage. */
function intact(number, work) {
  try {
    return work();
  } catch (error) {
    throw mismatch(error, number);
  }
}
async function intactLater(number, work) {
  try {
    return await work();
  } catch (error) {
    throw mismatch(error, number);
  }
}
function mismatch(error, number) {
  if (!(error instanceof VaecCorruptError)) return error;
  const message = `tile ${number} is intact but does not decode (${error.message})`;
  return new VaecMismatchError(`${message}: crafted file, or this build computes differently`, error.code, number);
}
