// The page of rtseg serve: live camera and single pictures. No library, no build.
import { Painter } from "/page/painter.js";

export const $ = (id) => document.getElementById(id);
const HEADER = 32;
const QUALITY = 0.99; // of JPEGs: less costs edges
const QUICK = 0.85; // over a slow link, where bytes cost time
const SLOW_LINK = 30; // milliseconds there and back
const SLOW_FOR = 2000; // milliseconds, then it is tried again
const CAUSES = { 1: "newer frame", 2: "unreadable", 3: "answers not read" };

function token() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    sessionStorage.setItem("token", found);
    history.replaceState(null, "", location.pathname + location.search + "#live");
  }
  return sessionStorage.getItem("token") ?? "";
}
const secret = token();
export const bearer = secret ? { Authorization: `Bearer ${secret}` } : {};

// The stage has the shape of what it shows.
export function fit(shown, width, height) {
  shown.parentElement.style.aspectRatio = width ? `${width} / ${height}` : "";
}

// --- pages ------------------------------------------------------------------------------------

function open() {
  const wanted = location.hash.slice(1);
  const current = ["picture", "video"].includes(wanted) ? wanted : "live";
  for (const name of ["live", "picture", "video"]) {
    $(name).hidden = name !== current;
    $(`to-${name}`).toggleAttribute("aria-current", name === current);
  }
}
addEventListener("hashchange", open);
open();

// --- live ---------------------------------------------------------------------------------------

const wanted = new URLSearchParams(location.search).get("path"); // "2d" or "gl", for tests
const painter = new Painter($("canvas"), wanted);
const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
const small = document.createElement("canvas");
const count = { sent: 0, shown: 0, dropped: {}, wrong: 0 };
let socket = null;
let hello = null; // what the server said of its network
let credit = 1;
let held = new Map(); // seq -> the frame that was sent, until it is answered
let sequence = 0;
let captured = 0; // when the newest camera frame came
let fresh = false; // whether it was sent
let making = false;
let drawing = new Set(); // frames whose masks have come, until they are on the screen
let ages = [];
let painted = [];
let server = 0;
let slow = 0; // until when the link counts as slow
let sizes = [0, 0];
let drawn = Promise.resolve(); // once the last of them is

function look() {
  const field = (name) => document.querySelector(`input[name=${name}]:checked`).value;
  return {
    view: field("view"),
    ground: field("ground"),
    opacity: Number($("opacity").value),
    colour: $("colour").value,
    mirror: $("mirror").checked,
  };
}

function showControls() {
  const { view, ground } = look();
  for (const one of document.querySelectorAll("[data-for]")) {
    const own = one.dataset.for;
    one.hidden = !(own === view || (view === "cutout" && own === ground));
  }
  painter.look = look();
}
$("controls").addEventListener("input", showControls);
$("controls").addEventListener("submit", (event) => event.preventDefault());
showControls();

$("figures").addEventListener("change", () => { $("hud").hidden = !$("figures").checked || !socket; });
$("image").addEventListener("change", async () => {
  const [file] = $("image").files;
  const backdrop = file && await createImageBitmap(file).catch(() => null);
  if (file && file === $("image").files[0]) painter.backdrop = backdrop;
});

function explain(title, words) {
  $("welcome").hidden = false;
  $("welcome").querySelector("h2").textContent = title;
  $("words").textContent = words;
  $("start").textContent = "Try again";
}

const REFUSED = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it in the address bar, then try again.",
  NotFoundError: "This device has no camera that the browser can see.",
  NotReadableError: "Another program is using the camera. Close it, then try again.",
};

async function start() {
  if (!navigator.mediaDevices) {
    $("start").hidden = true;
    explain("The camera needs https", `Browsers give the camera only to pages that came over https, or from this very machine. This page came over plain http from ${location.hostname}. Use an ssh tunnel and open http://localhost, or let the server have a certificate; docs/serve.md shows both. Single pictures work here all the same.`);
    return;
  }
  $("welcome").hidden = true;
  try {
    const device = $("camera").value;
    const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
    const stream = await navigator.mediaDevices.getUserMedia({
      video: device ? { ...size, deviceId: { exact: device } } : { ...size, facingMode: "user" },
    });
    video.srcObject = stream;
    stream.getVideoTracks()[0].addEventListener("ended", () => stop("The camera is gone", "It was unplugged, or the browser took it away."));
    await video.play();
    await listCameras(stream);
  } catch (error) {
    explain("No camera", REFUSED[error.name] ?? `The browser said: ${error.message}`);
    return;
  }
  $("stop").hidden = false;
  $("hud").hidden = !$("figures").checked;
  connect();
}

async function listCameras(stream) {
  const all = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
  const current = stream.getVideoTracks()[0].getSettings().deviceId;
  $("camera").replaceChildren(...all.map((one, n) => new Option(one.label || `Camera ${n + 1}`, one.deviceId, false, one.deviceId === current)));
}

function stop(title = "Camera stopped", words = "No more images are sent.") {
  socket?.close(1000);
  socket = null;
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  for (const { bitmap } of held.values()) bitmap.close();
  held = new Map();
  $("stop").hidden = $("hud").hidden = true;
  explain(title, words);
}

$("start").addEventListener("click", start);
$("stop").addEventListener("click", () => stop());
for (const id of ["camera", "steady"]) $(id).addEventListener("change", () => { if (socket) { stop(); start(); } });

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const mine = new WebSocket(`${scheme}://${location.host}/v1/stream`, "rtseg.1");
  mine.binaryType = "arraybuffer";
  socket = mine;
  Object.assign(count, { sent: 0, shown: 0, dropped: {}, wrong: 0 });
  [sequence, ages, hello, credit, slow, drawing] = [0, [], null, 1, 0, new Set()];
  mine.onopen = () => mine.send(JSON.stringify({ type: "hello", token: secret, width: video.videoWidth, height: video.videoHeight, kind: painter.kind, smooth: $("steady").checked }));
  mine.onmessage = ({ data }) => (typeof data === "string" ? control(JSON.parse(data)) : answer(data));
  mine.onclose = ({ code, reason }) => {
    if (socket !== mine) return;
    stop("The server ended the stream", reason || (code === 1006 ? "It cannot be reached." : `It gave no reason (${code}).`));
    if (document.hidden) document.addEventListener("visibilitychange", start, { once: true }); // browsers draw nothing there, so nothing was sent
  };
  each(mine);
}

function control(message) {
  if (message.type === "welcome") {
    hello = message;
    credit = message.window;
    painter.network = message;
    fit($("canvas"), message.width, message.height);
    $("model").textContent = `${message.model} on ${message.device}`;
    showClasses();
    if (hello.selected || $("classes").querySelector("input:not(:checked)")) keepClasses(); // a new stream knows nothing of them
  } else if (message.type === "window") credit = message.frames;
  send();
}

function showClasses() {
  const shown = hello.classes.filter((one) => one.id !== hello.background);
  if ($("classes").childElementCount > shown.length) return;
  $("classes").append(...shown.map(({ id, name, colour }) => {
    const label = document.createElement("label");
    const checked = hello.selected?.includes(id) ?? true;
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked, value: id });
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.backgroundColor = `rgb(${colour})`;
    label.append(box, swatch, name);
    return label;
  }));
  painter.keep = new Set(shown.map((one) => one.id));
}
function keepClasses() {
  const ids = [...$("classes").querySelectorAll("input:checked")].map((box) => Number(box.value));
  painter.keep = new Set(ids);
  if (!hello) return; // its welcome comes
  if (hello.background !== null) ids.push(hello.background);
  socket?.send(JSON.stringify({ type: "classes", ids }));
}
$("classes").addEventListener("change", keepClasses);

function each(mine) {
  if (socket !== mine) return;
  captured = performance.now();
  fresh = true;
  send();
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(() => each(mine));
  else requestAnimationFrame(() => each(mine));
}

async function send() {
  if (!hello || !fresh || making || drawing.size || held.size >= credit || socket?.readyState !== 1 || !video.videoWidth) return;
  making = true;
  fresh = false;
  const mine = socket;
  try {
    const at = captured;
    if (video.videoWidth !== hello.width || video.videoHeight !== hello.height) {
      mine.send(JSON.stringify({ type: "camera", width: video.videoWidth, height: video.videoHeight }));
      hello = null; // until the server has said which size it wants now
      return;
    }
    const bitmap = await createImageBitmap(video);
    [small.width, small.height] = [hello.input.width, hello.input.height];
    const pen = small.getContext("2d", { alpha: false });
    pen.imageSmoothingQuality = "medium";
    pen.drawImage(bitmap, 0, 0, small.width, small.height);
    if (socket !== mine || mine.readyState !== 1) return bitmap.close();
    // at once: toBlob would wait for its turn behind what is drawn
    const body = atob(small.toDataURL("image/jpeg", performance.now() < slow ? QUICK : QUALITY).split(",")[1]);
    const message = new Uint8Array(16 + body.length);
    const head = new DataView(message.buffer);
    sequence += 1;
    head.setUint32(0, sequence, true);
    head.setFloat64(8, at, true);
    for (let n = 0; n < body.length; n += 1) message[16 + n] = body.charCodeAt(n);
    held.set(sequence, { bitmap, at, sent: performance.now() });
    mine.send(message);
    count.sent += 1;
    sizes[0] = message.byteLength;
  } finally {
    making = false;
  }
  if (fresh) send();
}

async function answer(data) {
  const head = new DataView(data);
  const seq = head.getUint32(0, true);
  const frame = held.get(seq);
  held.delete(seq);
  if (!frame || frame.at !== head.getFloat64(8, true)) {
    count.wrong += 1;
    frame?.bitmap.close();
    return;
  }
  const kind = head.getUint16(4, true);
  if (kind === 0) {
    const cause = CAUSES[head.getUint16(6, true)] ?? "other";
    count.dropped[cause] = (count.dropped[cause] ?? 0) + 1;
    frame.bitmap.close();
    return send();
  }
  server = head.getFloat32(20, true);
  sizes[1] = data.byteLength;
  const trip = performance.now() - frame.at;
  if (performance.now() - frame.sent - server > SLOW_LINK) slow = performance.now() + SLOW_FOR;
  const [width, height, payload] = [head.getUint16(16, true), head.getUint16(18, true), data.slice(HEADER)];
  const mine = drawing;
  mine.add(frame);
  drawn = drawn.then(() => painter.draw(frame.bitmap, kind, width, height, payload)).catch(console.error); // in order
  await drawn;
  frame.bitmap.close();
  count.shown += 1;
  requestAnimationFrame(() => {
    const age = performance.now() - frame.at;
    ages.push([performance.now(), age]);
    painted.push([age, trip]);
    mine.delete(frame);
    send(); // not before: making the next one would keep this one from the screen
  });
}

setInterval(() => {
  if (!socket || socket.readyState !== 1) return;
  if (painted.length) socket.send(JSON.stringify({ type: "painted", ages: painted.map((one) => one[0]), trips: painted.map((one) => one[1]) }));
  painted = [];
  const figures = now();
  if (!figures.frames) return;
  const { p50, p95, p99 } = figures.age;
  const drops = Object.entries(count.dropped).map(([cause, n]) => `${n} ${cause}`).join(", ") || "none";
  const size = (bytes) => `${(bytes / 1e3).toFixed(1)} kB`;
  $("hud").textContent = `${figures.fps.toFixed(1)} fps   server ${server.toFixed(0)} ms   dropped ${drops}
age ${p50.toFixed(0)} / ${p95.toFixed(0)} / ${p99.toFixed(0)} ms (p50 / p95 / p99)
${size(sizes[0])} up   ${size(sizes[1])} down   ${painter.canvas.width}x${painter.canvas.height}`;
}, 500);

function now() {
  const since = performance.now() - 10000;
  ages = ages.filter(([when]) => when > since);
  const sorted = ages.map((one) => one[1]).sort((a, b) => a - b);
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  const span = ages.length > 1 ? (ages.at(-1)[0] - ages[0][0]) / 1e3 : 0;
  return { frames: ages.length, fps: span ? (ages.length - 1) / span : 0, age: { p50: at(0.5), p95: at(0.95), p99: at(0.99) } };
}

// what tests read
window.rtseg = { count, painter, figures: now, ages: () => ages, inFlight: () => held.size };

// --- a picture ------------------------------------------------------------------------------------

let file = null;
let shown = "";
let turn = 0; // of the newest request: answers may overtake each other

async function segment() {
  if (!file) return;
  turn += 1;
  const [mine, own] = [turn, file];
  const kind = document.querySelector("input[name=as]:checked").value;
  const refine = $("refine").checked ? "&refine=1" : "";
  $("trouble").textContent = "Working…";
  try {
    const [image, shares] = await Promise.all([post(own, `as=${kind}${refine}`), post(own, `as=json${refine}`)]);
    const [blob, { classes }] = await Promise.all([image.blob(), shares.json()]);
    if (mine !== turn) return;
    URL.revokeObjectURL(shown);
    shown = URL.createObjectURL(blob);
    $("result").src = $("save").href = shown;
    $("result").onload = () => fit($("result"), $("result").naturalWidth, $("result").naturalHeight);
    $("result").alt = `${own.name}: ${kind}`;
    $("save").download = `${own.name.replace(/\.[^.]*$/, "")}-${kind}.${blob.type === "image/png" ? "png" : "jpg"}`;
    $("shares").replaceChildren(...classes.map(({ name, share }) => {
      const row = document.createElement("li");
      row.append(Object.assign(document.createElement("span"), { textContent: name }), Object.assign(document.createElement("span"), { textContent: `${(share * 100).toFixed(1)} %` }));
      return row;
    }));
    if (!classes.length) $("shares").textContent = "No class of the model is in this image.";
    $("result").hidden = $("save").hidden = $("other").hidden = false;
    $("invite").hidden = true;
    $("trouble").textContent = "";
  } catch (error) {
    if (mine !== turn) return;
    $("invite").hidden = false;
    $("trouble").textContent = error.message;
  }
}

async function post(body, query) {
  const answer = await fetch(`/v1/segment?${query}`, { method: "POST", body, headers: bearer });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `The server answered ${answer.status}.`);
  return answer;
}

function take(files) {
  if (files.length) file = files[0];
  segment();
}
$("file").addEventListener("change", () => take($("file").files));
$("again").addEventListener("change", () => take($("again").files));
for (const one of document.querySelectorAll("input[name=as], #refine")) one.addEventListener("change", segment);
for (const name of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files);
  });
}
