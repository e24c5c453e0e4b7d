// Stands in for web/dist/vaecodec.js in tests of the viewer page: the same faces, and pictures of stripes.

export class VaecError extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** Of the header, what the page shows. */
export function info(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 32 || view.getUint32(0) !== 0x89564145) throw new VaecError("these bytes do not begin as a .vaec file", "BAD_MAGIC");
  const [width, height, fileBytes] = [8, 12, 24].map(at => view.getUint32(at, true));
  if (fileBytes !== bytes.length) throw new VaecError(`file has ${bytes.length} bytes, must have ${fileBytes}`, "SHORT_FILE");
  return { width, height, quality: bytes[20], orientation: 1, metadata: {} };
}

/** Stripes of 16 pixels; a file whose last byte is 0xff has a preview, and then is damaged. */
export async function decode(bytes, { scale = 1 } = {}) {
  const { width, height } = info(bytes), across = Math.ceil(width * scale), down = Math.ceil(height * scale);
  await new Promise(resolve => setTimeout(resolve, 20));
  if (scale === 1 && bytes.at(-1) === 0xff) throw new VaecError("payload of tile 0 has the wrong checksum", "TILE_CRC");
  const data = new Uint8ClampedArray(4 * across * down);
  for (let at = 0; at < across * down; at++) {
    const x = at % across / scale, y = Math.floor(at / across) / scale;
    data.set([x / width * 255, y / height * 255, (x + y) / 16 & 1 ? 96 : 160, 255], 4 * at);
  }
  return { width: across, height: down, data };
}

export const oriented = picture => picture;
