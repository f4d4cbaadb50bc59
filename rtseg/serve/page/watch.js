// Shows what a run shows: JPEGs over a WebSocket, the newest whenever this page has drawn the last.
const $ = (id) => document.getElementById(id);
const pen = $("canvas").getContext("2d", { alpha: false });
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
const count = (window.rtseg = { shown: 0 });
let moments = [];
let again = 500;

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/watch`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    socket.send(JSON.stringify({ type: "hello", token: sessionStorage.getItem("token") ?? "" }));
    $("model").textContent = "Waiting for a frame…";
  };
  socket.onmessage = async ({ data }) => {
    again = 500;
    const age = new DataView(data).getFloat32(4, true);
    const bitmap = await createImageBitmap(new Blob([data.slice(12)], { type: "image/jpeg" }));
    const { width, height } = bitmap;
    if (pen.canvas.width !== width || pen.canvas.height !== height) {
      [pen.canvas.width, pen.canvas.height] = [width, height];
      pen.canvas.parentElement.style.aspectRatio = `${width} / ${height}`;
    }
    pen.drawImage(bitmap, 0, 0);
    bitmap.close();
    if (socket.readyState === 1) socket.send("next");
    count.shown += 1;
    moments = [...moments.slice(-60), performance.now()];
    const fps = moments.length > 1 ? (1e3 * (moments.length - 1)) / (moments.at(-1) - moments[0]) : 0;
    $("model").textContent = "Live";
    $("hud").hidden = false;
    $("hud").textContent = `${fps.toFixed(1)} fps   ${width}x${height}   age ${age.toFixed(0)} ms when sent   ${(data.byteLength / 1e3).toFixed(0)} kB`;
  };
  socket.onclose = ({ code, reason }) => {
    moments = [];
    $("hud").hidden = true;
    $("model").textContent = reason ? `Ended: ${reason}` : "Not connected; trying again…";
    if (code !== 1008) setTimeout(connect, (again = Math.min(10000, again * 2)));
  };
}
connect();

$("snapshot").addEventListener("click", async (event) => {
  event.preventDefault(); // a link cannot carry the token
  const token = sessionStorage.getItem("token");
  const answer = await fetch("/v1/watch.jpg", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (!answer.ok) return void ($("model").textContent = (await answer.json()).error);
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(await answer.blob()), download: "rtseg.jpg" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
