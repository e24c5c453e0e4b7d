// Decodes in a thread of its own what the page asks for.

import { answer } from './decoder.js';

self.onmessage = async ({ data: { id, bytes, options } }) => {
  const found = await answer(bytes, options);
  self.postMessage({ id, ...found }, found.picture ? [found.picture.data.buffer] : []);
};
