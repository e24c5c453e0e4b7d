// EXIF orientation: read from metadata, applied to decoded pictures.

const ORIENTATION = 0x0112, SHORT = 3, ENTRY_BYTES = 12;

/** The orientation 1 to 8 that an EXIF block tells; 1 if it tells none. */
export function orientationOf(exif) {
  if (!exif || exif.length < 8) return 1;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength), order = view.getUint16(0);
  if (order !== 0x4949 && order !== 0x4d4d) return 1;
  const little = order === 0x4949, start = view.getUint32(4, little);
  if (start + 2 > exif.length) return 1;
  const count = view.getUint16(start, little);
  for (let n = 0, at = start + 2; n < count && at + ENTRY_BYTES <= exif.length; n++, at += ENTRY_BYTES) {
    if (view.getUint16(at, little) !== ORIENTATION) continue;
    const value = view.getUint16(at + 2, little) === SHORT ? view.getUint16(at + 8, little) : 1;
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

/** A picture as it is to be seen, given its orientation: of the kind that was given, the same one if that is 1. */
export function oriented(picture, orientation) {
  if (orientation === 1) return picture;
  const { width, height } = picture, turned = orientation > 4;
  const from = new Uint32Array(picture.data.buffer, picture.data.byteOffset, width * height);
  const data = new Uint8ClampedArray(4 * width * height), to = new Uint32Array(data.buffer);
  const mirrored = [2, 3, 7, 8].includes(orientation), flipped = [3, 4, 6, 7].includes(orientation);
  const across = turned ? height : width, down = turned ? width : height;
  for (let y = 0, at = 0; y < down; y++)
    for (let x = 0; x < across; x++) {
      // Along the sides that the picture is stored by.
      const column = turned ? y : x, row = turned ? x : y;
      to[at++] = from[(flipped ? height - 1 - row : row) * width + (mirrored ? width - 1 - column : column)];
    }
  const isImageData = typeof ImageData === 'function' && picture instanceof ImageData;
  return isImageData ? new ImageData(data, across, down) : { width: across, height: down, data };
}
