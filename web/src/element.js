// <vaec-img>, and a polyfill that draws every <img src="*.vaec">.

import { decode, info, oriented } from './vaecodec.js';
import { toPng } from './png.js';

const LARGE_PX = 256 * 1024; // from here on a preview is shown first
const MOST_SIDE = 16384, MOST_PX = 1 << 26; // of canvases; what is larger is shown reduced
const NEAR = '300px'; // how far from being seen a lazy picture is loaded

/** The picture of an address: show(picture, facts) is called with a preview, if the picture is large, and then with all of it. */
async function load(source, { signal, show, preview = true }) {
  const response = await fetch(source, { signal });
  if (!response.ok) throw new Error(`${source}: ${response.status} ${response.statusText}`);
  const bytes = new Uint8Array(await response.arrayBuffer()), facts = info(bytes);
  const fits = (scale) => Math.max(facts.width, facts.height) * scale <= MOST_SIDE && facts.width * facts.height * scale ** 2 <= MOST_PX;
  const largest = [1, 1 / 2, 1 / 4, 1 / 8].find(fits) ?? 1 / 8;
  const isLarge = preview && facts.width * facts.height >= LARGE_PX && facts.tiles.some((mode) => mode === 'learned');
  for (const scale of isLarge ? [1 / 8, largest] : [largest]) {
    const picture = oriented(await decode(bytes, { scale }), facts.orientation);
    signal?.throwIfAborted();
    await show(picture, facts);
  }
}

/** Calls work() now or, of an element with loading="lazy", when it is nearly seen; returns what takes that back. */
function whenNear(element, work) {
  if (element.getAttribute('loading') !== 'lazy') {
    work();
    return () => {};
  }
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    work();
  }, { rootMargin: NEAR });
  observer.observe(element);
  return () => observer.disconnect();
}

// --- the element ---

const sheet = new CSSStyleSheet(); // not blocked by a content security policy, as <style> would be
sheet.replaceSync(`
  :host { display: inline-block; vertical-align: bottom; max-width: 100%; }
  :host([hidden]) { display: none; }
  canvas { display: block; width: 100%; height: auto; }
  canvas[hidden], span[hidden] { display: none; }
`);

/**
 * <vaec-img src alt width height loading>: a picture, like <img>.
 *
 * Fires "load" when the whole picture is there, "preview" before, and "error", whose `detail` is the error; then shows
 * `alt`, never a damaged picture. Colours of an ICC profile are converted, EXIF orientation is applied.
 */
export class VaecImage extends HTMLElement {
  static observedAttributes = ['src', 'alt', 'width', 'height', 'loading'];

  #canvas = document.createElement('canvas');
  #text = document.createElement('span');
  #abort = null;
  #forget = () => {};

  /** Whether there is nothing more to come; sizes of the picture in pixels; the error, if there was one. */
  complete = true;
  naturalWidth = 0;
  naturalHeight = 0;
  error = null;

  constructor() {
    super();
    const root = this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = [sheet];
    this.#canvas.hidden = this.#text.hidden = true;
    this.#canvas.role = 'img';
    root.append(this.#canvas, this.#text);
  }

  get src() { return this.getAttribute('src') ?? ''; }
  set src(value) { this.setAttribute('src', value); }
  get alt() { return this.getAttribute('alt') ?? ''; }
  set alt(value) { this.setAttribute('alt', value); }

  connectedCallback() { this.#restart(); }
  disconnectedCallback() { this.#stop(); }

  attributeChangedCallback(name, before, now) {
    if (name === 'alt') {
      this.#canvas.role = now === '' ? 'presentation' : 'img';
      this.#canvas.ariaLabel = this.#text.textContent = now ?? '';
    } else if (name === 'width' || name === 'height') this.style[name] = /^\d+$/.test(now ?? '') ? `${now}px` : '';
    else if (before !== now && this.isConnected) this.#restart();
  }

  #stop() {
    this.#abort?.abort();
    this.#forget();
  }

  #restart() {
    this.#stop();
    if (!this.src) return;
    this.complete = false;
    this.error = null;
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    this.#forget = whenNear(this, () => this.#load(signal));
  }

  async #load(signal) {
    try {
      await load(new URL(this.src, document.baseURI), { signal, show: (picture, facts) => this.#draw(picture, facts, signal) });
      this.complete = true;
      this.dispatchEvent(new Event('load'));
    } catch (error) {
      if (signal.aborted) return;
      this.complete = true;
      this.error = error;
      this.#canvas.hidden = true;
      this.#text.hidden = false;
      this.dispatchEvent(new CustomEvent('error', { detail: error }));
    }
  }

  async #draw(picture, { width, height, orientation, metadata }, signal) {
    [this.naturalWidth, this.naturalHeight] = orientation > 4 ? [height, width] : [width, height];
    const shown = new ImageData(picture.data, picture.width, picture.height);
    const bitmap = await createImageBitmap(metadata.iccProfile ? toPng(picture, metadata.iccProfile) : shown);
    signal.throwIfAborted();
    const isFirst = this.#canvas.hidden;
    const isPreview = picture.width < this.naturalWidth && Math.max(this.naturalWidth, this.naturalHeight) <= MOST_SIDE
      && this.naturalWidth * this.naturalHeight <= MOST_PX;
    const [across, down] = isPreview ? [this.naturalWidth, this.naturalHeight] : [picture.width, picture.height];
    Object.assign(this.#canvas, { width: across, height: down, hidden: false });
    this.#text.hidden = true;
    this.#canvas.getContext('2d').drawImage(bitmap, 0, 0, across, down);
    bitmap.close();
    if (isFirst && isPreview) this.dispatchEvent(new Event('preview'));
  }
}

if (!customElements.get('vaec-img')) customElements.define('vaec-img', VaecImage);

// --- the polyfill ---

const isVaec = (image) => /\.vaec$/i.test(new URL(image.getAttribute('src') ?? '', document.baseURI).pathname);

/**
 * Draws every <img> of a document, now and later, whose address ends in .vaec. Needs `img-src blob:` where a content
 * security policy restricts pictures. Returns a function that ends it.
 */
export function polyfill(root = document) {
  const take = (node) => {
    for (const image of node.matches?.('img[src]') ? [node] : (node.querySelectorAll?.('img[src]') ?? []))
      if (isVaec(image)) replace(image);
  };
  const observer = new MutationObserver((changes) => {
    for (const { type, target, addedNodes } of changes) (type === 'attributes' ? [target] : addedNodes).forEach(take);
  });
  observer.observe(root, { subtree: true, childList: true, attributes: true, attributeFilter: ['src'] });
  take(root);
  return () => observer.disconnect();
}

function replace(image) {
  const source = image.getAttribute('src');
  const isCurrent = () => image.getAttribute('src') === source;
  whenNear(image, async () => {
    try {
      await load(new URL(source, document.baseURI), {
        preview: false,
        show(picture, { metadata }) {
          if (!isCurrent()) return;
          const address = URL.createObjectURL(toPng(picture, metadata.iccProfile));
          image.addEventListener('load', () => URL.revokeObjectURL(address), { once: true });
          image.dataset.vaecSrc = source;
          image.src = address;
        },
      });
    } catch (error) {
      if (isCurrent()) image.dispatchEvent(new CustomEvent('error', { detail: error }));
    }
  });
}
