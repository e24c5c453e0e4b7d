// The network and the entropy coder: the core of the Python package's native engine, compiled to WebAssembly.

import { crc32 } from './crc32.js';
import { MULTIPLE_TABLE, PASSES, coarsen, indexesOf, multiplesOf, positionsOf, toSteps } from './hyper.js';
import { VaecCorruptError, VaecMismatchError, VaecModelError, VaecResourceError, asVaecError } from './errors.js';

export const STRIDE = 16; // pixels a latent
const HYPER_STRIDE = 4, BASE_SHARE = 8, SAMPLES = 3 * STRIDE * STRIDE;
const SENTINEL = 0x01454156n;
const POINTER = 4, READER_BYTES = 16;

const FAULTS = {
  1: ['CODER_WORDS', 'payload is empty or not a whole number of words'],
  2: ['CODER_STATE', 'payload ends with the word 0; any other word is allowed'],
  3: ['ESCAPE_RANGE', 'escaped symbol has a value that its row codes without escape'],
};
const NO_MEMORY = 7;
// Numbers in the core, which takes no bytes, and how many bytes each has.
const TYPES = { U8: [null, 1], F32: [0, 4], F16: [1, 2], I16: [2, 2], I32: [3, 4], I64: [4, 8] };
const ARCHITECTURE = [
  'latent_channels', 'hyper_channels', 'analysis_channels', 'analysis_blocks', 'synthesis_channels', 'synthesis_blocks',
  'synthesis_gate_channels', 'correction_channels', 'render_channels', 'render_hidden_channels', 'condition_channels',
  'prior_channels', 'scale_channels', 'quality_anchors',
];

/**
 * The tensors of a weights file as the build writes it: safetensors, in which the bytes of each tensor are sorted by
 * their place in a number, the first of all of them first, because gzip makes less of that; CRC-32 of all before it.
 */
export function parseWeights(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), end = bytes.length - 4;
  if (end < 8 || crc32(bytes.subarray(0, end)) !== view.getUint32(end, true))
    throw new VaecModelError('the weights are damaged', 'MODEL_HASH');
  const dataStart = 8 + view.getUint32(0, true);
  const { __metadata__: metadata, ...tensors } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, dataStart)));
  for (const tensor of Object.values(tensors)) {
    const size = TYPES[tensor.dtype][1], sorted = bytes.subarray(...tensor.data_offsets.map((offset) => dataStart + offset));
    const count = sorted.length / size, data = new Uint8Array(sorted.length);
    for (let byte = 0; byte < size; byte++)
      for (let n = 0, from = byte * count, to = byte; n < count; n++, from++, to += size) data[to] = sorted[from];
    Object.assign(tensor, { data, count });
  }
  return { architecture: JSON.parse(metadata.architecture), tensors };
}

/** One model at work. After an error that ends the instance `isDead` is set, and a new one is needed. */
export class Engine {
  /** `module` is a WebAssembly.Module, `weights` what `parseWeights` returned. */
  static async create(module, weights) {
    // The core writes nothing; what its C library would write is dropped.
    const wasi = { fd_close: () => 0, fd_seek: () => 0, fd_write: () => 0 };
    const instance = await WebAssembly.instantiate(module, { wasi_snapshot_preview1: wasi });
    return new Engine(instance.exports, weights);
  }

  constructor(core, { architecture, tensors }) {
    this.core = core;
    this.isDead = false;
    this.latents = architecture.latent_channels;
    this.hyper = architecture.hyper_channels;
    this.prior = architecture.prior_channels;
    this.base = Math.floor(this.latents / BASE_SHARE);
    this.margin = architecture.synthesis_blocks + 1;
    this.#guarded(() => {
      core._initialize();
      [this.hyperTables] = this.#tables(tensors, 'hyper_tables');
      this.hyperIndexes = tensors.hyper_indexes.data;
      this.latentTables = this.#tables(tensors, 'latent_tables');
      this.multipleTable = this.#table(MULTIPLE_TABLE.radius, MULTIPLE_TABLE.counts, 0);
      this.#load(architecture, tensors);
    });
  }

  /**
   * The latents Float32Array [rows, columns, C] of a learned payload: all of them, C = M, or their base, C = M / 8.
   *
   * Raises VaecCorruptError if the payload is not one that an encoder wrote, VaecMismatchError (LATENT_CRC) if it does
   * not hold the latents that were encoded; with `baseOnly` neither is looked for behind the base.
   */
  decode(payload, rows, columns, quality, contentCrc, baseOnly) {
    return this.#guarded((take) => {
      const channels = baseOnly ? this.base : this.latents;
      const { z, y } = this.#read(take, payload, rows, columns, quality, contentCrc, channels);
      const size = rows * columns * channels, featuresSize = rows * columns * this.prior;
      const zSize = hyperSize(rows, columns) * this.hyper;
      const [features, mean, latents] = [take(4 * featuresSize), take(4 * size), take(4 * size)];
      const { core, model } = this, grid = [rows, columns, quality, channels];
      this.#call(core.vaec_start_prediction(model, z, zSize, ...grid, features, featuresSize, mean, size, 1));
      this.#call(core.vaec_refine(model, y, features, featuresSize, ...grid, mean, latents, size, 1));
      this.#call(core.vaec_complete(model, y, ...grid, mean, latents, size, 1));
      return this.#floats(latents, size).slice();
    });
  }

  /** Pixels Uint8Array [16 rows, 16 columns, 3]; fill(latents) sets latents Float32Array [rows, columns, M]. */
  synthesize(rows, columns, quality, cut, fill) {
    return this.#guarded((take) => {
      const size = rows * columns * this.latents, samples = rows * columns * SAMPLES;
      const [y, pixels, isFinite] = [take(4 * size), take(samples), take(4)];
      fill(this.#floats(y, size));
      this.#call(this.core.vaec_synthesize(this.model, y, size, rows, columns, quality, cut, pixels, samples, isFinite, 1));
      if (!this.#ints(isFinite, 1)[0])
        throw new VaecCorruptError('the latents do not synthesize to finite pixels', 'NONFINITE');
      return this.#bytes(pixels, samples).slice();
    });
  }

  /** Pixels Uint8Array [16 rows / scale, 16 columns / scale, 3] of latents as `decode` returns them. */
  preview(latents, rows, columns, scale) {
    return this.#guarded((take) => {
      const channels = latents.length / (rows * columns), samples = rows * columns * SAMPLES / scale ** 2;
      const [y, pixels] = [take(4 * latents.length), take(samples)];
      this.#floats(y, latents.length).set(latents);
      this.#call(this.core.vaec_preview(this.model, y, latents.length, rows, columns, channels, scale, pixels, samples, 1));
      return this.#bytes(pixels, samples).slice();
    });
  }

  // --- integers ---

  /** The symbols of a payload: places of z int16 [h' w', Z] and y int16 [rows columns, channels], in steps. */
  #read(take, payload, rows, columns, quality, contentCrc, channels) {
    const { core, model } = this, positions = hyperSize(rows, columns), zCount = positions * this.hyper;
    const count = rows * columns * channels, most = Math.max(zCount, count);
    const [bytes, reader, z, y] = [take(payload.length), take(READER_BYTES), take(2 * zCount), take(2 * count)];
    const [indexes, taken, found] = [take(count), take(most), take(4 * most)];
    this.#bytes(bytes, payload.length).set(payload);
    this.#call(core.vaec_reader_start(reader, bytes, payload.length));
    const read = (tables, n) =>
      this.#call(core.vaec_reader_read(reader, bytes, payload.length, tables, taken, n, found));

    this.#bytes(taken, positions).fill(0);
    read(this.multipleTable, positions);
    const width = Math.ceil(columns / HYPER_STRIDE), shape = [rows, columns, channels, HYPER_STRIDE];
    const multiples = multiplesOf(this.#ints(found, positions), positions / width, width);
    this.#readHyper(read, z, taken, found, rows, columns, quality);
    this.#call(core.vaec_table_rows(model, z, zCount, rows, columns, quality, channels, indexes, count, 1));
    coarsen(this.#bytes(indexes, count), multiples, ...shape);
    for (const group of this.#groups(channels)) {
      const n = gather(this.#bytes(indexes, count), this.#bytes(taken, count), rows, columns, channels, group.parts);
      read(this.latentTables[group.number], n);
      scatter(this.#ints(found, count), this.#shorts(y, count), rows, columns, channels, group.parts);
    }
    if (channels === this.latents) this.#checkEnd(reader, multiples, z, 2 * zCount, y, 2 * count, contentCrc);
    toSteps(this.#shorts(y, count), multiples, ...shape);
    return { z, y };
  }

  /** Reads z by read(tables, n), which takes table indexes from `taken` and leaves symbols at `found`. */
  #readHyper(read, z, taken, found, rows, columns, quality) {
    const height = Math.ceil(rows / HYPER_STRIDE), width = Math.ceil(columns / HYPER_STRIDE), channels = this.hyper;
    const count = height * width * channels;
    this.#shorts(z, count).fill(0);
    for (let pass = 0; pass < PASSES; pass++) {
      const positions = positionsOf(pass, height, width), n = positions.length * channels;
      if (!n) continue;
      indexesOf(pass, positions, this.#shorts(z, count), height, width, channels, quality, this.hyperIndexes, this.#bytes(taken, n));
      read(this.hyperTables, n);
      const values = this.#shorts(z, count), symbols = this.#ints(found, n);
      positions.forEach((position, k) => values.set(symbols.subarray(k * channels, (k + 1) * channels), position * channels));
    }
  }

  /** What is coded together: the pass that it belongs to, and its channels at positions whose row + column has a parity. */
  #groups(channels) {
    const base = this.base, half = this.latents / 2, all = this.latents;
    const groups = [
      { number: 0, parts: [[1, 0, base]] },
      { number: 1, parts: [[0, 0, base]] },
      { number: 0, parts: [[1, base, half], [0, half, all]] },
      { number: 1, parts: [[0, base, half], [1, half, all]] },
    ];
    return channels === base ? groups.slice(0, 2) : groups;
  }

  /** Exactly the symbols of the encoder must have been read, and they must be those that it wrote. */
  #checkEnd(reader, multiples, z, zBytes, y, yBytes, contentCrc) {
    const [state, wordsLeft] = new BigUint64Array(this.core.memory.buffer, reader, 2);
    if (wordsLeft || state !== SENTINEL)
      throw new VaecCorruptError(`payload ends with ${wordsLeft} words left and state ${state}`, 'CODER_END');
    if (crc32(this.#bytes(y, yBytes), crc32(this.#bytes(z, zBytes), crc32(multiples))) !== contentCrc)
      throw new VaecMismatchError('latents do not have the CRC that the file says', 'LATENT_CRC');
  }

  // --- the instance ---

  #tables(tensors, name) {
    const [radius, counts, first] = ['radius', 'counts', 'first_coded_row'].map((part) => tensors[`${name}.${part}`]);
    const [sets, rows, width] = counts.shape;
    const [radii, all, firsts] = [radius, counts, first].map(({ data }) => new Int32Array(data.buffer));
    return Array.from({ length: sets }, (_, n) =>
      this.#table(radii.subarray(n * rows, (n + 1) * rows), all.subarray(n * rows * width, (n + 1) * rows * width), firsts[n]));
  }

  /** The core's tables of rows with these radii; counts are [rows, width]. */
  #table(radius, counts, firstCodedRow) {
    const rows = radius.length;
    return this.#guarded((take) => {
      const places = [radius, counts].map((values) => {
        const at = take(8 * values.length), words = this.#ints(at, 2 * values.length).fill(0);
        for (let n = 0; n < values.length; n++) words[2 * n] = values[n]; // int64, none of them negative
        return at;
      });
      const tables = this.core.vaec_tables_new(...places, rows, counts.length / rows, firstCodedRow);
      if (!tables) throw new VaecModelError(this.#message(), 'TABLE');
      return tables;
    });
  }

  #load(architecture, tensors) {
    this.#guarded((take) => {
      const { core } = this, names = Object.keys(tensors).filter((name) => TYPES[tensors[name].dtype][0] !== null), count = names.length;
      const put = (bytes) => {
        const at = take(bytes.length + 1);
        this.#bytes(at, bytes.length + 1).set(bytes);
        return at;
      };
      const places = names.map((name) => [put(new TextEncoder().encode(`${name}\0`)), put(tensors[name].data)]);
      const arch = put(new Uint8Array(Int32Array.from(ARCHITECTURE, (name) => architecture[name]).buffer));
      const lists = Array.from({ length: 4 }, () => take(POINTER * count));
      names.forEach((name, n) => {
        const { dtype, count: values } = tensors[name];
        [...places[n], TYPES[dtype][0], values].forEach((value, list) => (this.#ints(lists[list], count)[n] = value));
      });
      this.model = core.vaec_model_new(arch, count, ...lists);
      if (!this.model) throw new VaecModelError(`weights: ${this.#message()}`, 'MODEL_VALUES');
      if (core.vaec_self_test(this.model) >= 0)
        throw new VaecModelError('this machine does not compute the scale network exactly', 'SELF_TEST');
    });
  }

  /** work(take), where take(bytes) gives memory of the instance for as long as the work takes. */
  #guarded(work) {
    const taken = [];
    const take = (bytes) => {
      const at = this.core.malloc(Math.max(bytes, 1));
      if (!at) throw new VaecResourceError('not enough memory for this picture', 'MEMORY');
      taken.push(at);
      return at;
    };
    try {
      return work(take);
    } catch (error) {
      this.isDead ||= error instanceof WebAssembly.RuntimeError || error instanceof RangeError;
      throw asVaecError(error);
    } finally {
      if (!this.isDead) taken.forEach((at) => this.core.free(at));
    }
  }

  #call(fault) {
    if (fault === 0) return;
    if (FAULTS[fault]) throw new VaecCorruptError(FAULTS[fault][1], FAULTS[fault][0]);
    if (fault === NO_MEMORY) throw new VaecResourceError('not enough memory for this picture', 'MEMORY');
    throw new VaecModelError(`engine: ${this.#message()} (fault ${fault})`, 'ENGINE');
  }

  #message() {
    const bytes = new Uint8Array(this.core.memory.buffer, this.core.vaec_message(), 256);
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
  }

  // Views are made anew every time: those from before are empty once memory has grown.
  #bytes(at, count) { return new Uint8Array(this.core.memory.buffer, at, count); }
  #shorts(at, count) { return new Int16Array(this.core.memory.buffer, at, count); }
  #ints(at, count) { return new Int32Array(this.core.memory.buffer, at, count); }
  #floats(at, count) { return new Float32Array(this.core.memory.buffer, at, count); }
}

const hyperSize = (rows, columns) => Math.ceil(rows / HYPER_STRIDE) * Math.ceil(columns / HYPER_STRIDE);

/** Copies the channels of `parts` from values [rows, columns, channels] side by side; returns how many there are. */
function gather(values, to, rows, columns, channels, parts) {
  let n = 0;
  for (const [parity, first, last] of parts)
    for (let row = 0; row < rows; row++)
      for (let column = (row + parity) & 1; column < columns; column += 2)
        for (let at = (row * columns + column) * channels + first, end = at + last - first; at < end;) to[n++] = values[at++];
  return n;
}

/** The inverse of `gather`. */
function scatter(values, to, rows, columns, channels, parts) {
  let n = 0;
  for (const [parity, first, last] of parts)
    for (let row = 0; row < rows; row++)
      for (let column = (row + parity) & 1; column < columns; column += 2)
        for (let at = (row * columns + column) * channels + first, end = at + last - first; at < end;) to[at++] = values[n++];
}
