// A static server under a strict content security policy, and Debian's Chromium for it.

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const POLICY = [
  "default-src 'none'", "script-src 'self' 'wasm-unsafe-eval'", "worker-src 'self'", "connect-src 'self'",
  "img-src 'self' blob:", "style-src 'none'", "base-uri 'none'",
].join('; ');
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm', '.avif': 'image/avif', '.png': 'image/png' };
const CHROMIUMS = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** Where the browser is, or undefined. */
export const executable = CHROMIUMS.find((path) => path && existsSync(path));

/**
 * Serves the folder web/ and what `more` has, { path: bytes }; returns { origin, close }. What is posted goes to
 * receive(path, body).
 */
export async function serve(more = {}, receive) {
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
    if (receive && request.method === 'POST') {
      receive(path, Buffer.concat(await request.toArray()));
      response.writeHead(204).end();
      return;
    }
    try {
      const bytes = more[path] ?? (await readFile(join(ROOT, normalize(path))));
      response.writeHead(200, { 'Content-Type': TYPES[extname(path)] ?? 'application/octet-stream', 'Content-Security-Policy': POLICY });
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { origin: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** The browser; run as root, as in containers, it has no sandbox. */
export const launch = () =>
  chromium.launch({ executablePath: executable, args: process.getuid?.() === 0 ? ['--no-sandbox'] : [] });
