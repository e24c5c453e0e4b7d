// What callers of the package may rely on, in Node.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runInNewContext } from 'node:vm';
import { inflateSync } from 'node:zlib';
import { PNG } from 'pngjs';
import { VaecError, VaecImageError, decode, info, oriented } from '../dist/vaecodec.js';
import { orientationOf } from '../src/orientation.js';
import { toPng } from '../src/png.js';
import { fuzz } from './fuzz.js';
import { manifest, vector } from './vectors.js';

const crop = ({ width, data }, [left, top, right, bottom]) => {
  const rows = [];
  for (let y = top; y < bottom; y++) rows.push(...data.subarray(4 * (y * width + left), 4 * (y * width + right)));
  return rows;
};
const largestDifference = (a, b) => a.reduce((most, value, at) => Math.max(most, Math.abs(value - b[at])), 0);
const tiled = Object.keys(manifest.valid).filter((name) => manifest.valid[name].tiles.length > 2);

test('a region is the crop of the whole picture', async () => {
  assert.ok(tiled.length > 3);
  for (const name of tiled) {
    const bytes = vector(name), whole = await decode(bytes), { width, height } = whole;
    const middle = [Math.floor(width / 2), Math.floor(height / 2)];
    const regions = [
      [0, 0, 1, 1], [width - 1, height - 1, width, height], [3, 5, middle[0] + 7, middle[1] + 3],
      [middle[0] - 9, middle[1] - 5, width, height],
    ];
    for (const region of regions) {
      const part = await decode(bytes, { region });
      assert.deepEqual([part.width, part.height], [region[2] - region[0], region[3] - region[1]]);
      assert.ok(largestDifference(crop(whole, region), part.data) <= 1, `${name} ${region}`);
    }
  }
});

test('a preview has sides rounded up, and looks like the picture', async () => {
  for (const name of ['quality-75', 'mode-la', 'mode-rgba-plain', ...tiled].filter((each) => manifest.valid[each]))
    for (const scale of [1 / 2, 1 / 4, 1 / 8]) {
      const whole = await decode(vector(name)), small = await decode(vector(name), { scale });
      assert.deepEqual([small.width, small.height], [whole.width, whole.height].map((side) => Math.ceil(side * scale)));
      const mean = ({ data }) => data.reduce((sum, value) => sum + value, 0) / data.length;
      assert.ok(Math.abs(mean(whole) - mean(small)) < 12, `${name} ${scale}: ${mean(whole)} ${mean(small)}`);
    }
});

test('bytes come in any container', async () => {
  const bytes = vector('mode-rgba'), shifted = new Uint8Array(bytes.length + 3);
  shifted.set(bytes, 3);
  const expected = await decode(bytes);
  const foreign = runInNewContext('Uint8Array.from(bytes)', { bytes }); // of another realm, as an iframe's
  assert.ok(!(foreign.buffer instanceof ArrayBuffer));
  const all = [
    bytes.buffer, Buffer.from(bytes), new DataView(bytes.buffer), shifted.subarray(3), foreign, foreign.buffer,
  ];
  for (const each of all)
    assert.deepEqual(await decode(each), expected);
  for (const wrong of ['text', null, [1, 2]]) await assert.rejects(decode(wrong), { code: 'SOURCE' });
});

test('several pictures at once come out as one after the other', async () => {
  const names = ['mode-rgba', 'corrected-rgb', 'filter-rgb-7', ...tiled];
  const alone = [];
  for (const name of names) alone.push(await decode(vector(name)));
  assert.deepEqual(await Promise.all(names.map((name) => decode(vector(name)))), alone);
});

test('options that cannot be are refused', async () => {
  const bytes = vector('mode-rgba'), wrong = { name: 'VaecImageError' };
  for (const scale of [0, 2, 1 / 3, '1', () => 1]) await assert.rejects(decode(bytes, { scale }), { ...wrong, code: 'ARGUMENT' });
  for (const region of [[0, 0, 0, 1], [0, 0, 1e6, 1], [-1, 0, 1, 1], [0.5, 0, 1, 1], [0, 0, 1], 'all', 7])
    await assert.rejects(decode(bytes, { region }), { ...wrong, code: 'BOX' });
  await assert.rejects(decode(bytes, { region: [0, 0, 1, 1], scale: 1 / 2 }), VaecImageError);
  await assert.rejects(decode(bytes, { maxPixels: 10 }), { name: 'VaecLimitError', code: 'MAX_PIXELS' });
  assert.throws(() => info(bytes, { maxPixels: 10 }), { code: 'MAX_PIXELS' });
  for (const maxPixels of [NaN, 0, -1, -Infinity, 'x', '9', {}, [], true, 9n]) {
    await assert.rejects(decode(bytes, { maxPixels }), { ...wrong, code: 'ARGUMENT' });
    assert.throws(() => info(bytes, { maxPixels }), { ...wrong, code: 'ARGUMENT' });
  }
});

test('options that say nothing are the usual ones', async () => {
  const bytes = vector('mode-rgba'), expected = [await decode(bytes), info(bytes)];
  const all = [null, {}, { maxPixels: undefined }, { maxPixels: null }, { maxPixels: Infinity }];
  for (const options of all) assert.deepEqual([await decode(bytes, options), info(bytes, options)], expected);
});

test('errors of a tile name it', async () => {
  const name = tiled.find((each) => manifest.valid[each].tiles[1] !== 'solid'), bytes = vector(name);
  const view = new DataView(bytes.buffer), length = view.getUint32(32, true) & 0xfffffff;
  bytes[32 + 12 * info(bytes).tiles.length + length] ^= 1;
  await assert.rejects(decode(bytes), { code: 'TILE_CRC', tile: 1 });
});

test('every flipped bit of a file is refused', async () => {
  for (const name of ['mode-l', 'mode-rgba-plain', 'meta-all'])
    for (let bit = 0; bit < 8 * vector(name).length; bit += 3) {
      const bytes = vector(name);
      bytes[bit >> 3] ^= 1 << (bit & 7);
      if (bit >> 3 === 6 && bit & 7) continue; // bits of flags_compat that may be ignored change header_crc only
      await assert.rejects(decode(bytes), (error) => error instanceof VaecError && error.code !== 'ERROR', `${name}, bit ${bit}`);
    }
});

test('mutants give a VaecError or a picture', async () => {
  const found = await fuzz(2000, 20);
  assert.ok(Object.keys(found.codes).length > 15);
  assert.ok(found.largest_mib < 1024, `${found.largest_mib} MiB`);
});

// --- helpers ---

test('orientation is read from either order of bytes, and hostile metadata has none', () => {
  const exif = (little, value, type = 3) => {
    const bytes = new Uint8Array(26), view = new DataView(bytes.buffer);
    bytes.set([...(little ? 'II' : 'MM')].map((letter) => letter.charCodeAt(0)));
    view.setUint16(2, 42, little);
    view.setUint32(4, 8, little);
    view.setUint16(8, 1, little);
    view.setUint16(10, 0x112, little);
    view.setUint16(12, type, little);
    view.setUint32(14, 1, little);
    view.setUint16(18, value, little);
    return bytes;
  };
  for (const little of [true, false]) for (let n = 1; n <= 8; n++) assert.equal(orientationOf(exif(little, n)), n);
  for (const none of [undefined, new Uint8Array(3), exif(true, 9), exif(true, 0), exif(true, 6, 2), exif(true, 6).subarray(0, 15)])
    assert.equal(orientationOf(none), 1);
  const far = exif(true, 6);
  far.fill(0xff, 4, 8);
  assert.equal(orientationOf(far), 1);
});

test('a picture is turned as its orientation says', () => {
  // Pixels 1 2 3 over 4 5 6, and what a viewer has to show of them.
  const seen = { 1: '123/456', 2: '321/654', 3: '654/321', 4: '456/123', 5: '14/25/36', 6: '41/52/63', 7: '63/52/41', 8: '36/25/14' };
  const picture = { width: 3, height: 2, data: new Uint8ClampedArray([1, 2, 3, 4, 5, 6].flatMap((n) => [n, n, n, 255])) };
  for (const [orientation, expected] of Object.entries(seen)) {
    const { width, height, data } = oriented(picture, Number(orientation));
    const rows = Array.from({ length: height }, (_, y) => Array.from({ length: width }, (_, x) => data[4 * (y * width + x)]).join(''));
    assert.equal(rows.join('/'), expected);
  }
});

test('a PNG holds the samples and the profile', async () => {
  const picture = await decode(vector('mode-rgba')), profile = new Uint8Array(70000).map((_, n) => n % 251);
  const png = Buffer.from(await toPng(picture, profile).arrayBuffer());
  assert.deepEqual(new Uint8ClampedArray(PNG.sync.read(png).data), picture.data);
  const at = png.indexOf('iCCP') + 4, length = png.readUInt32BE(at - 8);
  assert.deepEqual(new Uint8Array(inflateSync(png.subarray(at + 5, at + length))), profile);
});
