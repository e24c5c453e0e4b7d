// Times in Chromium, of .vaec and of the browser's own AVIF, in one run: node bench/bench.js FOLDER [ROUNDS] [FRESH],
// of pictures that files.py made.
//
// Each is measured from bytes in memory to pixels that a canvas can draw. "First" is a fresh browser with an empty cache:
// it includes the scripts, the module and the weights, from a server on this machine.

import { readFileSync, readdirSync, statSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { executable, launch, serve } from '../test/browser.js';

const folder = process.argv[2], ROUNDS = Number(process.argv[3] ?? 3), FRESH = Number(process.argv[4] ?? 5);
const stems = readdirSync(folder).filter((name) => name.endsWith('.vaec')).map((name) => name.slice(0, -5)).sort();
const files = { '/page.html': '<!doctype html><title>bench</title>' };
for (const stem of stems)
  for (const type of ['vaec', 'avif']) files[`/${stem}.${type}`] = readFileSync(join(folder, `${stem}.${type}`));

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const summary = (values) => ({ median: Math.round(median(values)), least: Math.round(Math.min(...values)), most: Math.round(Math.max(...values)) });

// In the page: milliseconds of each picture in turn.
async function measure(names) {
  const start = performance.now();
  const { decode } = await import('/dist/vaecodec.js');
  const timed = async (work) => {
    const before = performance.now();
    await work();
    return performance.now() - before;
  };
  const found = { preview: [], whole: [], avif: [] };
  for (const name of names) {
    const bytes = await (await fetch(`/${name}.vaec`)).arrayBuffer();
    found.preview.push(await timed(async () => createImageBitmap(await decode(bytes, { scale: 1 / 8 }))));
    found.firstPreview ??= performance.now() - start;
    found.whole.push(await timed(async () => createImageBitmap(await decode(bytes))));
    found.firstWhole ??= performance.now() - start;
    const avif = await (await fetch(`/${name}.avif`)).blob();
    found.avif.push(await timed(() => createImageBitmap(avif)));
  }
  return found;
}

const server = await serve(files);
const run = async (names) => {
  const browser = await launch();
  try {
    const page = await browser.newPage();
    await page.goto(`${server.origin}/page.html`);
    return { version: browser.version(), ...(await page.evaluate(measure, names)) };
  } finally {
    await browser.close();
  }
};

const fresh = [];
for (let n = 0; n < FRESH; n++) fresh.push(await run(stems.slice(0, 1)));
const later = { preview: [], whole: [], avif: [] };
const long = await run(Array.from({ length: ROUNDS }, () => stems).flat());
for (const key of Object.keys(later)) later[key] = long[key].slice(stems.length); // without the first round, which warms up
server.close();

const dist = new URL('../dist/', import.meta.url);
const sizes = {};
for (const name of readdirSync(dist).filter((each) => !each.endsWith('.txt'))) {
  const bytes = readFileSync(new URL(name, dist)), brotli = { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } };
  sizes[name] = { raw: statSync(new URL(name, dist)).size, gzip: gzipSync(bytes, { level: 9 }).length, brotli: brotliCompressSync(bytes, brotli).length };
}
console.log(JSON.stringify({
  browser: `Chromium ${long.version}`, cpu: cpus()[0].model, cores: cpus().length, pictures: stems.length, executable,
  bytes: { vaec: median(stems.map((stem) => files[`/${stem}.vaec`].length)), avif: median(stems.map((stem) => files[`/${stem}.avif`].length)) },
  first_ms: { preview: summary(fresh.map((each) => each.firstPreview)), whole: summary(fresh.map((each) => each.firstWhole)), avif: summary(fresh.map((each) => each.avif[0])) },
  later_ms: Object.fromEntries(Object.entries(later).map(([key, values]) => [key, summary(values)])),
  sizes,
}, null, 1));
