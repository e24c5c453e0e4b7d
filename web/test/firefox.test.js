// The package in Firefox, without a driver: its page sends what it found. All vectors, the element, a strict policy.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { serve } from './browser.js';
import { disagreement, expected, manifest, vector } from './vectors.js';

const FIREFOXES = [process.env.FIREFOX, '/usr/bin/firefox-esr', '/usr/bin/firefox'];
const executable = FIREFOXES.find((path) => path && existsSync(path));
const PATIENCE_MS = 300_000;
const names = [...Object.keys(manifest.valid), ...Object.keys(manifest.invalid)];
const files = Object.fromEntries(names.map((name) => [`/${name}.vaec`, vector(name)]));
files['/names.json'] = JSON.stringify(names);
files['/page.html'] = '<!doctype html><html lang="en"><title>vaecodec</title><body><script type="module" src="/test/firefox.js"></script></body></html>';

describe('Firefox', { skip: executable ? false : 'no Firefox: apt-get install firefox-esr, or set FIREFOX' }, () => {
  let server, browser, profile, result;
  const found = {}, refused = {};

  before(async () => {
    await new Promise((resolve, reject) => {
      const receive = (path, body) => {
        const [, kind, name, width, height] = path.split('/');
        if (kind === 'found') found[name] = { width: Number(width), height: Number(height), data: body };
        if (kind === 'refused') refused[name] = JSON.parse(body);
        if (kind === 'done') resolve((result = JSON.parse(body)));
      };
      const start = async () => {
        server = await serve(files, receive);
        profile = await mkdtemp(join(tmpdir(), 'vaecodec-firefox-'));
        const address = `${server.origin}/page.html`;
        browser = spawn(executable, ['--headless', '--no-remote', '--profile', profile, address], { stdio: 'ignore', env: { ...process.env, HOME: profile } });
        browser.on('error', reject);
        browser.on('exit', (code) => reject(new Error(`Firefox has ended with ${code}`)));
        setTimeout(() => reject(new Error('Firefox does not answer')), PATIENCE_MS).unref();
      };
      start().catch(reject);
    });
  });
  after(async () => {
    if (browser?.exitCode === null) {
      const ended = new Promise((resolve) => browser.once('exit', resolve));
      browser.kill();
      await ended;
    }
    server?.close();
    if (profile) await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  });

  test('nothing fails, and the policy holds', () => {
    assert.equal(result.failed, undefined);
    assert.deepEqual(result.violations, []);
    assert.match(result.agent, /Firefox/);
  });

  test('vectors decode to their pictures', () => {
    assert.deepEqual(Object.keys(found).sort(), Object.keys(manifest.valid).sort());
    for (const [name, picture] of Object.entries(found)) assert.equal(disagreement(name, picture), null, name);
  });

  test('vectors that must fail are refused, with name and code', () => {
    for (const [name, { error, code }] of Object.entries(manifest.invalid)) assert.deepEqual(refused[name], { error, code }, name);
  });

  test('<vaec-img> draws', () => {
    const picture = expected('encoder-photo');
    assert.deepEqual(result.size, [picture.width, picture.height]);
    result.pixel.forEach((value, channel) => assert.ok(Math.abs(value - picture.data[channel]) <= 1));
  });
});
