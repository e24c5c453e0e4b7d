// The package in Chromium: all vectors, the element, the polyfill, the worker, a strict policy, no other host.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { executable, launch, serve } from './browser.js';
import { disagreement, expected, manifest, vector } from './vectors.js';

const names = [...Object.keys(manifest.valid), ...Object.keys(manifest.invalid)];
const files = Object.fromEntries(names.map((name) => [`/${name}.vaec`, vector(name)]));
const PICTURE = 'encoder-photo', MASKED = 'mode-rgba', DAMAGED = 'learned-latents';
files['/page.html'] = '<!doctype html><html lang="en"><title>vaecodec</title><body></body></html>';

describe('Chromium', { skip: executable ? false : 'no Chromium: apt-get install chromium, or set CHROMIUM' }, () => {
  let server, browser, page;
  const requests = [], violations = [];

  before(async () => {
    server = await serve(files);
    browser = await launch();
    page = await browser.newPage();
    page.on('request', (request) => requests.push(request.url()));
    page.on('console', (message) => message.text().includes('Content Security Policy') && violations.push(message.text()));
    page.on('pageerror', (error) => violations.push(String(error)));
  });
  after(async () => {
    await browser?.close();
    server?.close();
  });
  const open = () => page.goto(`${server.origin}/page.html`);
  const pictureOf = ({ width, height, data }) => ({ width, height, data: Buffer.from(data, 'base64') });

  test('vectors decode to their pictures, in a worker', async () => {
    await open();
    const found = await page.evaluate(async (valid) => {
      const { decode, oriented } = await import('/dist/vaecodec.js');
      const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
      const results = {};
      for (const name of valid) {
        const picture = await decode(await (await fetch(`/${name}.vaec`)).arrayBuffer());
        const { width, height, data } = picture;
        results[name] = { width, height, data: base64(data), isImageData: [picture, oriented(picture, 6)].every((each) => each instanceof ImageData) };
      }
      return results;
    }, Object.keys(manifest.valid));
    for (const [name, picture] of Object.entries(found)) {
      assert.equal(disagreement(name, pictureOf(picture)), null, name);
      assert.ok(picture.isImageData);
    }
    assert.equal(page.workers().length, 1);
  });

  test('options that cannot be sent to the worker are refused, and the next picture decodes', async () => {
    await open();
    const found = await page.evaluate(async (url) => {
      const { decode } = await import('/dist/vaecodec.js');
      const bytes = await (await fetch(url)).arrayBuffer();
      const refused = await decode(bytes, { scale: () => 1 }).catch(({ name, code }) => ({ name, code }));
      return { refused, width: (await decode(bytes)).width };
    }, `/${PICTURE}.vaec`);
    assert.deepEqual(found, { refused: { name: 'VaecImageError', code: 'ARGUMENT' }, width: manifest.valid[PICTURE].width });
  });

  test('vectors that must fail are refused, with name and code', async () => {
    await open();
    const found = await page.evaluate(async (invalid) => {
      const { VaecError, decode } = await import('/dist/vaecodec.js');
      const results = {};
      for (const name of invalid)
        results[name] = await decode(await (await fetch(`/${name}.vaec`)).arrayBuffer()).then(
          () => 'decoded', (error) => error instanceof VaecError && { error: error.name, code: error.code });
      return results;
    }, Object.keys(manifest.invalid));
    for (const [name, { error, code }] of Object.entries(manifest.invalid)) assert.deepEqual(found[name], { error, code }, name);
  });

  test('<vaec-img> draws, has a name, a size, and events', async () => {
    await open();
    const [found, pixels] = await page.evaluate(async ([picture, masked]) => {
      await import('/dist/element.js');
      const shown = async (attributes) => {
        const element = Object.assign(document.createElement('vaec-img'));
        for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
        const loaded = new Promise((resolve, reject) => {
          element.addEventListener('load', resolve);
          element.addEventListener('error', ({ detail }) => reject(detail));
        });
        document.body.append(element);
        await loaded;
        return element;
      };
      const element = await shown({ src: `/${picture}.vaec`, alt: 'a photograph', width: '48', loading: 'lazy' });
      const canvas = (await shown({ src: `/${masked}.vaec` })).shadowRoot.querySelector('canvas');
      const { naturalWidth, naturalHeight, complete, error, clientWidth, clientHeight } = element;
      const { width, height, data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return [{ naturalWidth, naturalHeight, complete, error, clientWidth, clientHeight }, { width, height, data: [...data] }];
    }, [PICTURE, MASKED]);
    const { width, height } = manifest.valid[PICTURE];
    assert.deepEqual(found, {
      naturalWidth: width, naturalHeight: height, complete: true, error: null,
      clientWidth: 48, clientHeight: Math.round((48 * height) / width),
    });
    assert.equal(await page.getByRole('img', { name: 'a photograph' }).count(), 1);
    const wanted = expected(MASKED);
    for (let at = 3; at < pixels.data.length; at += 4) assert.equal(pixels.data[at], wanted.data[at]); // alpha
  });

  test('<vaec-img> shows its text, not a picture, of a damaged file, and recovers', async () => {
    await open();
    const [code, text, after] = await page.evaluate(async ([damaged, picture]) => {
      await import('/dist/element.js');
      const element = document.createElement('vaec-img');
      const next = (type) => new Promise((resolve) => element.addEventListener(type, resolve, { once: true }));
      element.src = `/${damaged}.vaec`;
      element.alt = 'what was there';
      const failed = next('error');
      document.body.append(element);
      const { detail } = await failed, [canvas, span] = element.shadowRoot.children;
      const text = canvas.hidden && !span.hidden && span.textContent;
      element.src = `/${picture}.vaec`;
      await next('load');
      return [detail.code, text, !canvas.hidden && span.hidden];
    }, [DAMAGED, PICTURE]);
    assert.deepEqual([code, text, after], [manifest.invalid[DAMAGED].code, 'what was there', true]);
  });

  test('the polyfill draws pictures that are there, that come later, and that change; damage is an error', async () => {
    await open();
    const sizes = await page.evaluate(async ([picture, masked, damaged]) => {
      const { polyfill } = await import('/dist/element.js');
      const make = (name, attributes = {}) =>
        Object.assign(document.createElement('img'), attributes, { src: `/${name}.vaec` });
      const drawn = (image) => new Promise((resolve) => {
        image.addEventListener('load', () => resolve([image.naturalWidth, image.naturalHeight, image.dataset.vaecSrc]));
        image.addEventListener('error', ({ detail }) => detail && resolve(detail.code)); // the browser's own has none
      });
      const first = make(picture);
      document.body.append(first);
      const found = [drawn(first)];
      const end = polyfill();
      const later = make(picture, { loading: 'lazy' }), bad = make(damaged);
      found.push(drawn(later), drawn(bad));
      document.body.append(later, bad);
      const before = await Promise.all(found);
      const changed = drawn(first);
      first.src = `/${masked}.vaec`;
      const after = await changed;
      end();
      return [...before, after];
    }, [PICTURE, MASKED, DAMAGED]);
    const size = (name) => [manifest.valid[name].width, manifest.valid[name].height, `/${name}.vaec`];
    assert.deepEqual(sizes, [size(PICTURE), size(PICTURE), manifest.invalid[DAMAGED].code, size(MASKED)]);
  });

  test('nothing broke the policy, and no other host was asked', () => {
    assert.deepEqual(violations, []);
    assert.ok(requests.length > names.length);
    for (const url of requests) assert.ok(url.startsWith(server.origin) || url.startsWith(`blob:${server.origin}`), url);
  });
});
