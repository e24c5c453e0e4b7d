// What a program without the types of the DOM may write; it is compiled, never run.
import { decode, info, type Picture } from 'vaecodec';

export async function size(bytes: Uint8Array): Promise<[number, number, Uint8ClampedArray]> {
  const picture: Picture = await decode(bytes);
  return [picture.width, info(bytes).metadata.exif?.length ?? 0, picture.data];
}
