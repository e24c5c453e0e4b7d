// The errors of vaecodec, with the names and codes that the Python package gives them.

/** Root of all errors: `message` is for people, `code` a stable upper-case word for programs, `tile` the one at fault. */
export class VaecError extends Error {
  constructor(message, code = 'ERROR', tile = null) {
    super(message);
    this.name = this.constructor.name;
    this.code = code;
    this.tile = tile;
  }
}
export class VaecFormatError extends VaecError { static { named(this, 'VaecFormatError'); } }
export class VaecTruncatedError extends VaecError { static { named(this, 'VaecTruncatedError'); } }
export class VaecChecksumError extends VaecError { static { named(this, 'VaecChecksumError'); } }
export class VaecUnsupportedError extends VaecError { static { named(this, 'VaecUnsupportedError'); } }
export class VaecLimitError extends VaecError { static { named(this, 'VaecLimitError'); } }
export class VaecModelError extends VaecError { static { named(this, 'VaecModelError'); } }
export class VaecCorruptError extends VaecError { static { named(this, 'VaecCorruptError'); } }
export class VaecMismatchError extends VaecCorruptError { static { named(this, 'VaecMismatchError'); } }
export class VaecImageError extends VaecError { static { named(this, 'VaecImageError'); } }
export class VaecResourceError extends VaecError { static { named(this, 'VaecResourceError'); } }
named(VaecError, 'VaecError');

// Scripts that were made smaller have lost the names of their classes.
function named(kind, name) {
  Object.defineProperty(kind, 'name', { value: name });
}

const KINDS = [
  VaecError, VaecFormatError, VaecTruncatedError, VaecChecksumError, VaecUnsupportedError, VaecLimitError,
  VaecModelError, VaecCorruptError, VaecMismatchError, VaecImageError, VaecResourceError,
];

/** An error as plain data, which crosses from a worker to its page; any other error is a VaecError, too. */
export function toPlain(error) {
  const { name, message, code = 'ERROR', tile = null } = asVaecError(error);
  return { name, message, code, tile };
}

/** The error that `toPlain` was given. */
export function fromPlain({ name, message, code, tile }) {
  const Kind = KINDS.find((kind) => kind.name === name) ?? VaecError;
  return new Kind(message, code, tile);
}

/** The error itself, or what stands for one of the JavaScript engine: memory that runs out. */
export function asVaecError(error) {
  if (error instanceof VaecError) return error;
  if (error instanceof RangeError || error instanceof WebAssembly.RuntimeError)
    return new VaecResourceError(`not enough memory for this picture (${error.message})`, 'MEMORY');
  return new VaecError(String(error?.message ?? error));
}
