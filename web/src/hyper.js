// The order of hyper-latents and the tables that code them: integers, the same on every machine.

const BANDS = 10; // tenths of the qualities
const MEAN_LIMIT = 3, MEANS = 2 * MEAN_LIMIT + 1; // of the mean of neighbours, in halves
const ACTIVITIES = 8, ACTIVITY_STEP = 3; // classes of how many channels around are not zero, and how many are one class
const AROUND = [[], [[-1, -1], [-1, 1], [1, -1], [1, 1]], [[-1, 0], [0, -1], [0, 1], [1, 0]]];

/** Radius and counts of the one row that codes differences of step multiples: see vaecodec.model.coding. */
export const MULTIPLE_TABLE = { radius: [2], counts: [1024, 1024, 2 ** 24 - 4097, 1024, 1024, 1] };
const MOST_MULTIPLE = 4, INDEX_SHIFTS = [0, 0, 6, 10, 12];

/** The step multiples [height, width], 1 to 4, of their differences to those on the left, in the first column above. */
export function multiplesOf(differences, height, width) {
  const multiples = new Uint8Array(height * width);
  for (let row = 0, position = 0; row < height; row++)
    for (let column = 0; column < width; column++, position++) {
      const before = column ? position - 1 : position - width;
      const sum = (before >= 0 ? multiples[before] - 1 : 0) + differences[position];
      multiples[position] = ((sum % MOST_MULTIPLE) + MOST_MULTIPLE) % MOST_MULTIPLE + 1;
    }
  return multiples;
}

/** Lowers the table indexes of latents whose symbols count multiples of steps, in place. */
export function coarsen(indexes, multiples, rows, columns, channels, stride) {
  byLatent(multiples, rows, columns, channels, stride, (n, multiple) => {
    indexes[n] = Math.max(0, indexes[n] - INDEX_SHIFTS[multiple]);
  });
}

/** Turns symbols that count multiples of steps into steps, in place. */
export function toSteps(symbols, multiples, rows, columns, channels, stride) {
  byLatent(multiples, rows, columns, channels, stride, (n, multiple) => {
    symbols[n] *= multiple;
  });
}

function byLatent(multiples, rows, columns, channels, stride, change) {
  if (multiples.every((multiple) => multiple === 1)) return;
  const width = Math.ceil(columns / stride);
  for (let row = 0, n = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const multiple = multiples[Math.floor(row / stride) * width + Math.floor(column / stride)];
      for (const end = n + channels; n < end; n++) if (multiple > 1) change(n, multiple);
    }
}

/** Passes over the grid, each with those around that are known by then. 0 2 0 2 / 2 1 2 1: see vaecodec.model.coding. */
export const PASSES = AROUND.length;

/** The positions of a pass over height x width hyper-latents, row by row. */
export function positionsOf(pass, height, width) {
  const positions = [];
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++)
      if (((row + column) % 2 ? 2 : row % 2) === pass) positions.push(row * width + column);
  return positions;
}

/**
 * Writes the table index of each hyper-latent of a pass into `out`.
 *
 * `z` has those of earlier passes [height width, channels]; `indexes` [contexts, channels] is of the weights.
 */
export function indexesOf(pass, positions, z, height, width, channels, quality, indexes, out) {
  const around = new Int32Array(4), isHigh = quality > 50 ? 1 : 0, blind = Math.floor(((quality - 1) * BANDS) / 100);
  let to = 0;
  for (const position of positions) {
    const row = Math.floor(position / width), column = position % width;
    let known = 0, active = 0;
    for (const [down, right] of AROUND[pass]) {
      const y = row + down, x = column + right;
      if (y >= 0 && y < height && x >= 0 && x < width) around[known++] = (y * width + x) * channels;
    }
    for (let n = 0; n < known; n++) for (let c = 0; c < channels; c++) active += z[around[n] + c] !== 0;
    const busy = known ? Math.min(Math.floor(Math.floor(active / known) / ACTIVITY_STEP), ACTIVITIES - 1) : 0;
    for (let c = 0; c < channels; c++) {
      let context = blind;
      if (known) {
        let total = 0;
        for (let n = 0; n < known; n++) total += z[around[n] + c];
        const mean = Math.min(MEAN_LIMIT, Math.max(-MEAN_LIMIT, Math.floor((4 * total + known) / (2 * known))));
        context = BANDS + (busy * MEANS + mean + MEAN_LIMIT) * 2 + isHigh;
      }
      out[to++] = indexes[context * channels + c];
    }
  }
}
