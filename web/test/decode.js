// Decodes for another program: node decode.js, requests [{ file, options }] as JSON on stdin; RGBA of all on stdout.

import { readFileSync } from 'node:fs';
import { decode } from '../dist/vaecodec.js';

for (const { file, options } of JSON.parse(readFileSync(0)))
  process.stdout.write((await decode(readFileSync(file), options)).data);
