// The viewer: which file is open, its picture at a zoom, an original under a line, and what went wrong.
import { decode, info, oriented } from "../dist/vaecodec.js";

const SUFFIX = /\.vaec$/i;
const MAGIC = [0x89, 0x56, 0x41, 0x45]; // "\x89VAE"
const MOST_PIXELS = 1 << 26; // of a canvas; browsers draw nothing, and say nothing, on one that is too large
const MOST_SIDE = 16384;
const ZOOMS = [1 / 16, 1 / 8, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 1.5, 2, 3, 4, 6, 8, 12, 16];

const at = id => document.getElementById(id);
const stage = at("stage"), picture = at("picture"), canvas = at("canvas"), original = at("original");

/** Everything that can be shown: {name, load: () => Promise<Uint8Array>, original: Blob | null}. */
const entries = [];
let open = -1; // which of them
let turn = 0; // rises with every picture that is opened: what comes late for an earlier one is dropped
let size = null; // of the open picture in its own pixels, {width, height}
let zoom = "fit"; // or screen pixels a picture's pixel

// --- files ---

async function isVaec(blob) {
  const head = new Uint8Array(await blob.slice(0, 4).arrayBuffer());
  return MAGIC.every((byte, index) => head[index] === byte);
}

const stem = name => name.replace(/\.[^./]*$/, "");
const withoutFolder = name => name.slice(name.lastIndexOf("/") + 1);

/** Takes files from the reader: .vaec files to be opened, other pictures to be compared with. */
async function take(files) {
  const others = [], first = entries.length;
  for (const file of files) {
    // What calls itself .vaec is opened as one: if it is none, the error says so.
    if (SUFFIX.test(file.name) || await isVaec(file)) {
      entries.push({ name: file.name, load: async () => new Uint8Array(await file.arrayBuffer()), original: null });
    } else {
      others.push(file);
    }
  }
  const isNew = entries.length > first, shown = isNew ? first : open;
  for (const file of others) {
    // The browser does not tell the file's folder: of several pictures with its name, the one that is shown.
    const named = entries.filter(entry => stem(withoutFolder(entry.name)) === stem(file.name));
    const entry = !named.length || named.includes(entries[shown]) ? entries[shown] : named.at(-1);
    if (entry) entry.original = file;
    else note("Open a .vaec file first, to compare this picture with.");
  }
  if (isNew) await show(first);
  else if (others.length && entries[shown]) await compare(entries[shown]);
}

/** Takes what a server lists: [{name, url, vaec?}, ...], addresses relative to the list; pairs by folder and stem. */
async function takeList(address) {
  const list = new URL(address, location.href);
  const answer = await fetch(list);
  if (!answer.ok) throw failure(`the list of files cannot be read: ${answer.status}`, "NETWORK");
  const { files, alive } = await answer.json();
  const originals = [];
  for (const { name, url, vaec } of files) {
    const load = () => read(new URL(url, list));
    if (vaec ?? SUFFIX.test(name)) entries.push({ name, load, original: null });
    else originals.push({ name, load });
  }
  for (const { name, load } of originals) {
    const entry = entries.find(each => stem(each.name) === stem(name)) ?? (entries.length === 1 ? entries[0] : null);
    if (entry) entry.loadOriginal = async () => new Blob([await load()]);
  }
  if (alive) stayAlive(new URL(alive, list));
  if (entries.length) await show(0);
}

async function read(url) {
  let answer;
  try {
    answer = await fetch(url);
  } catch {
    throw failure("the server does not answer: has it been stopped?", "NETWORK");
  }
  if (!answer.ok) throw failure(`the server no longer provides the file: ${answer.status}`, "NETWORK");
  return new Uint8Array(await answer.arrayBuffer());
}

/** A request that never ends: as long as it is there, the server knows that the page is. */
async function stayAlive(url) {
  for (;;) {
    try {
      const reader = (await fetch(url)).body.getReader();
      while (!(await reader.read()).done);
    } catch { /* the server is gone, or the connection was cut: the next try tells */ }
    await new Promise(resolve => setTimeout(resolve, 1000));
  }
}

const failure = (message, code) => Object.assign(new Error(message), { code });

// --- one picture ---

/** Opens an entry: a preview at once, then the whole; or the error instead of either. */
async function show(index) {
  open = index;
  const mine = ++turn, entry = entries[index];
  tellNames();
  hidePicture();
  tell(`${entry.name}: reading`);
  try {
    const bytes = await entry.load();
    if (mine !== turn) return;
    const found = info(bytes);
    const whole = largestScale(found);
    const times = [];
    for (const scale of found.width * found.height >= 64 * 64 ? [1 / 8, whole] : [whole]) {
      const start = performance.now();
      const image = oriented(await decode(bytes, { scale }), found.orientation);
      if (mine !== turn) return;
      times.push(performance.now() - start);
      draw(image, found);
      tellFacts(entry, bytes, found, times, scale === whole ? whole : null);
    }
    await compare(entry);
  } catch (error) {
    if (mine === turn) fail(entry, error);
  }
}

/** The largest scale whose picture fits on a canvas. */
function largestScale({ width, height }) {
  const fits = scale => width * height * scale * scale <= MOST_PIXELS && Math.max(width, height) * scale <= MOST_SIDE;
  return [1, 1 / 2, 1 / 4].find(fits) ?? 1 / 8;
}

function draw(image, { width, height, orientation }) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(new ImageData(image.data, image.width, image.height), 0, 0);
  canvas.setAttribute("aria-label", entries[open].name);
  size = orientation > 4 ? { width: height, height: width } : { width, height };
  at("empty").hidden = at("error").hidden = true;
  picture.hidden = false;
  lay();
}

function hidePicture() {
  picture.hidden = original.hidden = at("line").hidden = at("compare").hidden = true;
  at("error").hidden = true;
  at("empty").hidden = entries.length > 0;
  canvas.width = canvas.height = 0;
  size = null;
  note("");
  at("zoom").textContent = "";
}

/** Shows what is wrong, and no picture. */
function fail(entry, error) {
  hidePicture();
  at("empty").hidden = true;
  const name = document.createElement("b"), code = document.createElement("code");
  name.textContent = `${entry.name} cannot be shown`;
  code.textContent = error.code ?? "INTERNAL";
  at("error").replaceChildren(name, `${error.message || error} `, code);
  at("error").hidden = false;
  tell("");
}

// --- words ---

const milliseconds = ms => ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
const tell = text => { at("facts").textContent = text; };
const note = text => { at("note").textContent = text; };

function tellFacts(entry, bytes, { width, height, quality, metadata }, times, whole) {
  const bpp = 8 * bytes.length / (width * height);
  const parts = [
    `${size.width} × ${size.height}`, `quality ${quality}`, `${bytes.length.toLocaleString("en")} bytes`, `${bpp.toFixed(3)} bpp`,
  ];
  if (whole === null || times.length > 1) parts.push(`preview ${milliseconds(times[0])}`);
  if (whole !== null) parts.push(`${whole === 1 ? "whole" : `at 1/${1 / whole}`} ${milliseconds(times.at(-1))}`);
  if (metadata.iccProfile) parts.push("shown without its ICC profile");
  tell(parts.join(" · "));
  document.title = `${entry.name} – vaecodec viewer`;
}

function tellNames() {
  const names = at("names");
  names.replaceChildren(...entries.map(({ name }, index) => new Option(name, index, false, index === open)));
  for (const id of ["names", "previous", "next"]) at(id).hidden = entries.length < 2 && id !== "names" || !entries.length;
}

// --- zoom ---

/** CSS pixels a picture's pixel. "Fit" makes no small picture larger. */
function scaleNow() {
  if (zoom !== "fit") return zoom / devicePixelRatio;
  const { width, height } = stage.getBoundingClientRect();
  return Math.min(width / size.width, height / size.height, 1 / devicePixelRatio);
}

/** Lays the picture at the zoom, and keeps the point in the middle of the stage where it is. */
function lay() {
  if (!size) return;
  const before = picture.getBoundingClientRect(), view = stage.getBoundingClientRect(), scale = scaleNow();
  const middle = side => before[side[1]] ? (view[side[0]] + view[side[1]] / 2 - before[side[0]]) / before[side[1]] : 0.5;
  const x = middle(["left", "width"]), y = middle(["top", "height"]);
  picture.style.setProperty("width", `${size.width * scale}px`);
  picture.style.setProperty("height", `${size.height * scale}px`);
  picture.classList.toggle("pixels", scale * devicePixelRatio >= 2 && canvas.width === size.width);
  stage.scrollLeft = x * size.width * scale - view.width / 2;
  stage.scrollTop = y * size.height * scale - view.height / 2;
  stage.classList.toggle("pannable", stage.scrollWidth > stage.clientWidth || stage.scrollHeight > stage.clientHeight);
  at("zoom").textContent = `${Math.round(100 * scale * devicePixelRatio)} %`;
  for (const [id, value] of [["fit", "fit"], ["actual", 1], ["double", 2]]) at(id).setAttribute("aria-pressed", zoom === value);
}

function setZoom(value) {
  zoom = value;
  lay();
}

function step(direction) {
  if (!size) return;
  const now = scaleNow() * devicePixelRatio;
  const larger = ZOOMS.find(each => each > now * 1.001), smaller = ZOOMS.findLast(each => each < now * 0.999);
  setZoom((direction > 0 ? larger : smaller) ?? zoom);
}

// --- compare ---

/** Lays the entry's original over its picture, if it has one. */
async function compare(entry) {
  const mine = turn;
  try {
    if (entry.loadOriginal && !entry.original) entry.original = await entry.loadOriginal();
    if (mine !== turn || !entry.original || !size) return;
    URL.revokeObjectURL(original.src);
    original.src = URL.createObjectURL(entry.original);
    await original.decode();
  } catch (error) {
    if (mine === turn) note(error.code === "NETWORK" ? error.message : "This browser cannot read the original.");
    entry.original = entry.loadOriginal = null;
    return;
  }
  if (mine !== turn || !size) return;
  original.alt = `original of ${entry.name}`;
  original.hidden = at("line").hidden = at("compare").hidden = false;
  const isSame = original.naturalWidth === size.width && original.naturalHeight === size.height;
  const bytes = `original: ${entry.original.size.toLocaleString("en")} bytes`;
  note(isSame ? bytes : `${bytes}, ${original.naturalWidth} × ${original.naturalHeight}: shown at the size of the .vaec picture`);
  split(Number(at("split").value));
  lay();
}

/** Shows the original up to so many percent of the width. */
function split(percent) {
  at("split").value = percent;
  picture.style.setProperty("--at", `${percent}%`);
}

function stopComparing() {
  if (!entries[open]) return;
  entries[open].original = entries[open].loadOriginal = null;
  original.hidden = at("line").hidden = at("compare").hidden = true;
  note("");
  lay();
}

const flip = () => split(Number(at("split").value) >= 50 ? 0 : 100);

// --- what the reader does ---

const go = by => { if (entries.length > 1) show((open + by + entries.length) % entries.length); };
const doings = {
  f: () => setZoom("fit"), 1: () => setZoom(1), 2: () => setZoom(2), "+": () => step(1), "=": () => step(1), "-": () => step(-1),
  n: () => go(1), p: () => go(-1), o: flip, c: () => split(50), "?": () => at("keys").showModal(),
};
const buttons = { fit: "f", actual: "1", double: "2", in: "+", out: "-", next: "n", previous: "p", flip: "o", help: "?" };
for (const [id, key] of Object.entries(buttons)) at(id).addEventListener("click", doings[key]);
at("drop").addEventListener("click", stopComparing);
at("names").addEventListener("change", event => show(Number(event.target.value)));
at("split").addEventListener("input", event => split(Number(event.target.value)));
at("files").addEventListener("change", async event => {
  const files = [...event.target.files];
  event.target.value = ""; // so that the same file can be chosen again
  await take(files);
});
addEventListener("keydown", event => {
  const isTyping = event.target instanceof HTMLSelectElement || at("keys").open;
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
  const doing = doings[event.key.toLowerCase()];
  if (!doing) return;
  event.preventDefault();
  doing();
});
addEventListener("resize", lay);

addEventListener("dragover", event => {
  event.preventDefault();
  stage.classList.add("dropping");
});
addEventListener("dragleave", event => { if (!event.relatedTarget) stage.classList.remove("dropping"); });
addEventListener("drop", async event => {
  event.preventDefault();
  stage.classList.remove("dropping");
  await take([...event.dataTransfer.files]);
});

// A mouse drags; a finger scrolls the stage by itself.
stage.addEventListener("pointerdown", event => {
  if (event.pointerType !== "mouse" || event.button !== 0 || !stage.classList.contains("pannable")) return;
  if (event.offsetX >= stage.clientWidth || event.offsetY >= stage.clientHeight) return; // a scroll bar
  stage.setPointerCapture(event.pointerId);
  stage.classList.add("panning");
});
stage.addEventListener("pointermove", event => {
  if (stage.classList.contains("panning")) stage.scrollBy(-event.movementX, -event.movementY);
});
for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, () => stage.classList.remove("panning"));

const list = new URLSearchParams(location.search).get("list");
if (list) takeList(list).catch(error => fail({ name: "The list of files" }, error));
