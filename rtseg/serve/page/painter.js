// Draws a frame with its mask: scores through WebGL2, or a palette PNG on a 2D canvas.

const VERTEX = `#version 300 es
void main() {
  vec2 corner = vec2(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0);
  gl_Position = vec4(corner, 0.0, 1.0);
}`;

// Bilinear by hand, in highp: what hardware interpolates with is rounded to 8 bits.
const FRAGMENT = `#version 300 es
precision highp float;
precision highp sampler2D;
uniform sampler2D frame, scores, ground;
uniform ivec2 size;
uniform bool aligned, probabilities;
uniform int view;
uniform vec4 colours[2];
uniform float opacity;
out vec4 colour;
float at(ivec2 cell, ivec2 cells) { return texelFetch(scores, clamp(cell, ivec2(0), cells - 1), 0).r; }
void main() {
  ivec2 place = ivec2(gl_FragCoord.xy);
  place.y = size.y - 1 - place.y;
  ivec2 cells = textureSize(scores, 0);
  vec2 where = aligned ? vec2(place) * vec2(cells - 1) / vec2(max(size - 1, ivec2(1)))
                       : (vec2(place) + 0.5) * vec2(cells) / vec2(size) - 0.5;
  where = clamp(where, vec2(0.0), vec2(cells - 1));
  ivec2 cell = ivec2(floor(where));
  vec2 part = where - vec2(cell);
  float top = mix(at(cell, cells), at(cell + ivec2(1, 0), cells), part.x);
  float low = mix(at(cell + ivec2(0, 1), cells), at(cell + ivec2(1, 1), cells), part.x);
  float margin = mix(top, low, part.y);
  vec4 own = colours[margin > 0.0 ? 1 : 0];
  vec3 picture = texelFetch(frame, place, 0).rgb;
  if (view == 0) colour = vec4(mix(picture, own.rgb, own.a * opacity), 1.0);
  else if (view == 1) colour = vec4(own.rgb * own.a, 1.0);
  else if (view == 2) {
    float second = probabilities ? 0.5 + 0.5 * margin : 1.0 / (1.0 + exp(-margin));
    float kept = mix(colours[0].a, colours[1].a, second);
    vec3 behind = texture(ground, (vec2(place) + 0.5) / vec2(size)).rgb;
    colour = vec4(mix(behind, picture, kept), 1.0);
  } else colour = vec4(picture, 1.0);
}`;

const VIEWS = { overlay: 0, mask: 1, cutout: 2, plain: 3 };
const SLOW = /SwiftShader|llvmpipe|Software|Basic Render/i;

export class Painter {
  // path: "gl" or "2d" to force one; otherwise WebGL2 where a graphics card draws it
  constructor(canvas, path) {
    this.canvas = canvas;
    this.keep = new Set();
    this.look = null;
    this.backdrop = null;
    this.network = null;
    this.ground = document.createElement("canvas");
    this.layer = document.createElement("canvas");
    this.gl = path === "2d" ? null : this.#open(path === "gl");
    this.pen = this.gl ? null : canvas.getContext("2d", { alpha: false });
    this.kind = this.gl ? "logits16" : "png";
  }

  #open(forced) {
    const probe = document.createElement("canvas").getContext("webgl2");
    if (!probe) return null;
    const info = probe.getExtension("WEBGL_debug_renderer_info");
    const name = probe.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : probe.RENDERER);
    probe.getExtension("WEBGL_lose_context")?.loseContext();
    if (SLOW.test(name) && !forced) return null;
    const gl = this.canvas.getContext("webgl2", { alpha: false, antialias: false, preserveDrawingBuffer: forced });
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.place = (name) => gl.getUniformLocation(program, name);
    ["frame", "scores", "ground"].forEach((name, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      const filter = name === "ground" ? gl.LINEAR : gl.NEAREST;
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, filter);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
      gl.uniform1i(this.place(name), unit);
    });
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    return gl;
  }

  // bitmap: the frame; kind: 1 and 2 are scores (width x height, 16 or 32 bits), 3 is a PNG
  async draw(bitmap, kind, width, height, payload) {
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width;
      this.canvas.height = bitmap.height;
    }
    this.canvas.style.transform = this.look.mirror ? "scaleX(-1)" : ""; // cheaper than to draw so
    if (kind === 3) await this.#drawPng(bitmap, payload);
    else this.#drawScores(bitmap, kind, width, height, payload);
  }

  // what lies behind a cut-out: blurred by shrinking it a lot and enlarging it again
  #prepareGround(bitmap) {
    const { ground, colour } = this.look;
    const pen = this.ground.getContext("2d", { alpha: false });
    const side = ground === "blur" ? 48 : Math.max(bitmap.width, bitmap.height);
    const scale = side / Math.max(bitmap.width, bitmap.height);
    const [width, height] = [bitmap.width * scale, bitmap.height * scale].map(Math.ceil);
    if (this.ground.width !== width || this.ground.height !== height) [this.ground.width, this.ground.height] = [width, height];
    pen.imageSmoothingQuality = "high";
    pen.fillStyle = ground === "colour" ? colour : "#202734";
    pen.fillRect(0, 0, width, height);
    if (ground === "blur") pen.drawImage(bitmap, 0, 0, width, height);
    else if (ground === "image" && this.backdrop) {
      const { width: w, height: h } = this.backdrop;
      const fill = Math.max(width / w, height / h);
      pen.save();
      if (this.look.mirror) { pen.translate(width, 0); pen.scale(-1, 1); } // an image is not mirrored
      pen.drawImage(this.backdrop, (width - w * fill) / 2, (height - h * fill) / 2, w * fill, h * fill);
      pen.restore();
    }
  }

  #drawScores(bitmap, kind, width, height, payload) {
    const { gl, look, network } = this;
    gl.viewport(0, 0, bitmap.width, bitmap.height);
    gl.activeTexture(gl.TEXTURE0);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
    gl.activeTexture(gl.TEXTURE1);
    if (kind === 1) gl.texImage2D(gl.TEXTURE_2D, 0, gl.R16F, width, height, 0, gl.RED, gl.HALF_FLOAT, new Uint16Array(payload));
    else gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, width, height, 0, gl.RED, gl.FLOAT, new Float32Array(payload));
    gl.activeTexture(gl.TEXTURE2);
    if (look.view === "cutout") {
      this.#prepareGround(bitmap);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, this.ground);
    }
    const colours = network.classes.slice(0, 2).flatMap(({ id, colour }) => [...colour.map((level) => level / 255), Number(id !== network.background && this.keep.has(id))]);
    gl.uniform4fv(this.place("colours"), colours);
    gl.uniform2i(this.place("size"), bitmap.width, bitmap.height);
    gl.uniform1i(this.place("aligned"), network.align_corners);
    gl.uniform1i(this.place("probabilities"), network.probabilities);
    gl.uniform1i(this.place("view"), VIEWS[look.view]);
    gl.uniform1f(this.place("opacity"), look.opacity);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  async #drawPng(bitmap, payload) {
    const mask = await createImageBitmap(new Blob([payload], { type: "image/png" }));
    const { pen, canvas, look } = this;
    const { width, height } = canvas;
    if (look.view === "cutout") {
      const layer = this.layer;
      if (layer.width !== width || layer.height !== height) [layer.width, layer.height] = [width, height];
      const over = layer.getContext("2d");
      over.globalCompositeOperation = "copy";
      over.drawImage(mask, 0, 0, width, height);
      over.globalCompositeOperation = "source-in";
      over.drawImage(bitmap, 0, 0);
      this.#prepareGround(bitmap);
      pen.imageSmoothingQuality = "high";
      pen.drawImage(this.ground, 0, 0, width, height);
      pen.drawImage(layer, 0, 0);
    } else if (look.view === "mask") {
      pen.fillStyle = "black";
      pen.fillRect(0, 0, width, height);
      pen.drawImage(mask, 0, 0, width, height);
    } else {
      pen.drawImage(bitmap, 0, 0);
      pen.globalAlpha = look.view === "plain" ? 0 : look.opacity;
      pen.drawImage(mask, 0, 0, width, height);
      pen.globalAlpha = 1;
    }
    mask.close();
  }
}
