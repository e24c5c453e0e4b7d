// The types, compiled as a page and as a program without the DOM would; skipped where TypeScript is not installed.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const COMPILER = fileURLToPath(new URL('../node_modules/typescript/bin/tsc', import.meta.url));
const OPTIONS = ['--noEmit', '--strict', '--target', 'es2022', '--types', ''];
const RESOLUTIONS = { nodenext: ['--module', 'nodenext'], bundler: ['--module', 'esnext', '--moduleResolution', 'bundler'] };

for (const [file, library] of [['browser.ts', 'es2022,dom,dom.iterable'], ['node.ts', 'es2022']])
  for (const [name, resolution] of Object.entries(RESOLUTIONS))
    test(`types of ${file}, ${name}`, { skip: existsSync(COMPILER) ? false : 'no TypeScript: npm ci' }, () => {
      const { status, stdout, stderr } = spawnSync(
        process.execPath, [COMPILER, ...OPTIONS, ...resolution, '--lib', library, `test/types/${file}`], { cwd: ROOT, encoding: 'utf8' });
      assert.equal(status, 0, stdout + stderr);
    });
