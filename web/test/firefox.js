// The page of firefox.test.js: decodes all vectors, draws an element, and sends what it found to the server.

const send = (path, value) => fetch(path, { method: 'POST', body: value instanceof Uint8ClampedArray ? value : JSON.stringify(value) });

async function check() {
  const { VaecError, decode } = await import('/dist/vaecodec.js');
  for (const name of await (await fetch('/names.json')).json()) {
    const bytes = await (await fetch(`/${name}.vaec`)).arrayBuffer();
    try {
      const { width, height, data } = await decode(bytes);
      await send(`/found/${name}/${width}/${height}`, data);
    } catch (error) {
      await send(`/refused/${name}`, error instanceof VaecError ? { error: error.name, code: error.code } : String(error));
    }
  }
  await import('/dist/element.js');
  const element = document.createElement('vaec-img');
  Object.assign(element, { src: '/encoder-photo.vaec', alt: 'a photograph' });
  document.body.append(element);
  await new Promise((resolve, reject) => {
    element.addEventListener('load', resolve);
    element.addEventListener('error', ({ detail }) => reject(detail));
  });
  const canvas = element.shadowRoot.querySelector('canvas');
  const pixel = [...canvas.getContext('2d').getImageData(0, 0, 1, 1).data];
  return { size: [element.naturalWidth, element.naturalHeight], pixel, agent: navigator.userAgent };
}

const violations = [];
document.addEventListener('securitypolicyviolation', ({ violatedDirective }) => violations.push(violatedDirective));
const result = await check().catch((error) => ({ failed: `${error}\n${error.stack}` }));
await send('/done', { ...result, violations });
