// Types of vaecodec/element, which defines <vaec-img>.

/** <vaec-img src alt width height loading>; fires "preview", "load" and "error", whose `detail` is the error. */
export class VaecImage extends HTMLElement {
  src: string;
  alt: string;
  readonly complete: boolean;
  readonly naturalWidth: number;
  readonly naturalHeight: number;
  readonly error: Error | null;
}

declare global {
  interface HTMLElementTagNameMap {
    'vaec-img': VaecImage;
  }
}

/** Draws every <img> of a document, now and later, whose address ends in .vaec; returns a function that ends it. */
export function polyfill(root?: Document | Element): () => void;
