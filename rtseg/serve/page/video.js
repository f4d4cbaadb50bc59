// The page's videos: uploads that go on after a break, the list of jobs, their results.
import { $, bearer, fit } from "/page/page.js";

const PART = 2e6; // bytes of one request
const uploads = new Map(); // id of a job -> the file that is on its way
let playing = "";
let chosen = false; // whether options were changed here

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...bearer, ...options.headers } });
  const content = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  throw Object.assign(new Error(content.error ?? `The server answered ${answer.status}.`), { status: answer.status });
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

// --- uploads ----------------------------------------------------------------------------------------

function wishes(file) {
  const query = new URLSearchParams({ name: file.name, view: document.querySelector("input[name=drawn]:checked").value });
  const made = [...document.querySelectorAll("input[name=made]:checked")].map((box) => box.value);
  query.set("as", ["video", ...made].join());
  if ($("behind").value) query.set("background", $("behind").value);
  if ($("finer").checked) query.set("refine", "1");
  return query;
}

async function take(files) {
  const [file] = files;
  if (!file) return;
  $("film-trouble").textContent = file.size ? "" : `${file.name} is empty.`;
  if (!file.size) return;
  let job = null;
  try {
    const { jobs } = await ask("/v1/jobs");
    const query = String(wishes(file));
    const same = ({ id }) => !uploads.has(id) && (!chosen || sessionStorage.getItem(id) === query);
    job = jobs.find((one) => one.state === "uploading" && one.name === file.name && one.size === file.size && same(one));
    if (!job) {
      job = await ask(`/v1/jobs?${query}`, { method: "POST" });
      sessionStorage.setItem(job.id, query);
    }
    uploads.set(job.id, file);
    await send(job.id, file);
  } catch (error) {
    $("film-trouble").textContent = error.message;
    if (job) await ask(`/v1/jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
  }
  if (job) uploads.delete(job.id);
  refresh();
}

async function send(id, file) {
  for (let wait = 1000; ; ) {
    try {
      const { state, received } = await ask(`/v1/jobs/${id}`);
      if (state !== "uploading") return;
      const end = Math.min(file.size, received + PART);
      const headers = { "Content-Range": `bytes ${received}-${end - 1}/${file.size}` };
      show(await ask(`/v1/jobs/${id}/input`, { method: "PUT", body: file.slice(received, end), headers }));
      wait = 1000;
    } catch (error) {
      if (error.status === 404) return; // it was removed
      const away = error.status >= 500 && error.status !== 507; // or a proxy says so
      if (error.status && !away && ![408, 409].includes(error.status)) throw error;
      await pause(wait); // the server will know how much it has
      wait = Math.min(10000, 2 * wait);
    }
  }
}

$("options").addEventListener("input", () => { chosen = true; });
$("film").addEventListener("change", () => { take($("film").files); $("film").value = ""; });
for (const name of ["dragover", "dragleave", "drop"]) {
  $("reel").addEventListener(name, (event) => {
    event.preventDefault();
    $("reel").classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files);
  });
}

// --- the list -----------------------------------------------------------------------------------------

function words({ id, state, received, size, frames, total, fps, seconds_left: left, error, outputs }) {
  const percent = size ? `${Math.floor((100 * received) / size)} %` : megabytes(received);
  if (state === "uploading") return uploads.has(id) ? `Uploading, ${percent}` : `Stopped at ${percent}: choose the same file to go on`;
  if (state === "queued") return "Waits for its turn";
  if (state === "running") return frames ? `${frames}${total ? ` of ${total}` : ""} frames, ${fps} fps${left ? `, ${Math.ceil(left)} s left` : ""}` : "Starting…";
  return error ?? `Done, ${megabytes(outputs.video?.bytes ?? 0)}`;
}

function element(kind, properties, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

const NAMES = { video: "Save", mask: "Masks", json: "JSON lines", report: "Report" };

function row(id) {
  const own = $(`job-${id}`);
  if (own) return own;
  const remove = element("button", { type: "button", className: "remove" });
  remove.addEventListener("click", async () => {
    uploads.delete(id);
    await ask(`/v1/jobs/${id}`, { method: "DELETE" }).catch(() => {});
    if (playing === id) play("");
    refresh();
  });
  const bar = element("progress", { max: 1 });
  const made = element("li", { id: `job-${id}` }, element("strong"), element("span", { className: "state" }), bar, element("div", { className: "actions" }, remove));
  $("jobs").prepend(made);
  return made;
}

function show(job) {
  const made = row(job.id);
  const [name, state, bar, actions] = made.children;
  name.textContent = name.title = job.name;
  state.textContent = words(job);
  bar.hidden = ["done", "failed"].includes(job.state);
  bar.ariaLabel = `Progress of ${job.name}`;
  const share = job.state === "uploading" ? job.received / job.size : job.frames / job.total;
  if (Number.isFinite(share)) bar.value = share;
  else bar.removeAttribute("value");
  const remove = actions.lastElementChild;
  remove.textContent = bar.hidden ? "Delete" : "Cancel";
  remove.ariaLabel = `${remove.textContent} ${job.name}`;
  if (job.state !== "done" || actions.childElementCount > 1) return;
  if (job.outputs.video) {
    const button = element("button", { type: "button", textContent: "Play", ariaLabel: `Play ${job.name}` });
    button.addEventListener("click", () => play(job.id, job.outputs.video.address));
    remove.before(button);
  }
  for (const [kind, { address }] of Object.entries(job.outputs)) {
    remove.before(element("a", { className: "button", href: address, download: "", textContent: NAMES[kind], ariaLabel: `${NAMES[kind]}: ${job.name}` }));
  }
}

function play(id, address = "") {
  playing = id;
  $("player").hidden = !address;
  $("choose").hidden = Boolean(address);
  $("more").hidden = !address;
  if (address) {
    $("player").src = address;
    $("player").play().catch(() => {});
  } else {
    $("player").removeAttribute("src");
    fit($("player"));
  }
}
$("player").addEventListener("loadedmetadata", () => fit($("player"), $("player").videoWidth, $("player").videoHeight));
$("options").open = innerWidth > 800; // on a telephone the list comes sooner
$("more").addEventListener("click", () => play(""));

let asking = false;
async function refresh() {
  if (asking) return;
  asking = true;
  try {
    const { jobs, most } = await ask("/v1/jobs");
    $("to-video").hidden = !most;
    const ids = new Set(jobs.map(({ id }) => `job-${id}`));
    for (const made of [...$("jobs").children]) if (!ids.has(made.id)) made.remove();
    jobs.reverse().forEach(show);
    $("no-jobs").hidden = jobs.length > 0;
    $("offline").hidden = true;
  } catch (error) {
    $("offline").hidden = Boolean(error.status);
  } finally {
    asking = false;
  }
}
setInterval(() => { if (!$("video").hidden && !document.hidden) refresh(); }, 1000);
addEventListener("hashchange", refresh);
refresh();
