// All conformance vectors in Node: the same integers, pixels within the tolerance, every error with its name and code.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { decode, info } from '../dist/vaecodec.js';
import { disagreement, manifest, vector } from './vectors.js';

const METADATA = { icc_profile: 'iccProfile', exif: 'exif', xmp: 'xmp' };

for (const [name, facts] of Object.entries(manifest.valid))
  test(`${name} decodes: ${facts.tests}`, async () => {
    const bytes = vector(name), found = info(bytes);
    assert.equal(disagreement(name, await decode(bytes)), null);
    assert.deepEqual([found.width, found.height, found.format], [facts.width, facts.height, facts.mode]);
    assert.deepEqual([found.quality, found.tiles], [facts.quality, facts.tiles]);
    assert.deepEqual(Object.keys(found.metadata).length, Object.keys(facts.metadata).length);
    for (const [key, sha256] of Object.entries(facts.metadata))
      assert.equal(createHash('sha256').update(found.metadata[METADATA[key]]).digest('hex'), sha256);
  });

for (const [name, { error, code, tests }] of Object.entries(manifest.invalid))
  test(`${name} is refused: ${tests}`, () => assert.rejects(decode(vector(name)), { name: error, code }));
