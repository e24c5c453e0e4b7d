// What a page may write; it is compiled, never run.
import { decode, info, oriented, VaecError } from 'vaecodec';
import { polyfill } from 'vaecodec/element';

export async function draw(context: CanvasRenderingContext2D, bytes: Uint8Array): Promise<string> {
  try {
    const picture: ImageData = await decode(bytes, { scale: 0.125, maxPixels: null });
    const part = await decode(await (await fetch('photo.vaec')).arrayBuffer(), { region: [0, 0, 16, 16] });
    context.putImageData(oriented(picture, info(bytes).orientation), 0, part.height);
    // @ts-expect-error: there is no such preview
    await decode(bytes, { scale: 0.3 });
  } catch (error) {
    return error instanceof VaecError ? error.code : '';
  }
  const element = document.createElement('vaec-img');
  element.src = 'photo.vaec';
  const end: () => void = polyfill(document.body);
  end();
  return `${element.naturalWidth} ${document.querySelector('vaec-img')?.error}`;
}
