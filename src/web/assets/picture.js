// The picture: zoom, pan, boxes, tiles, heat map; and boxes that are drawn, moved, resized.
//
//   wheel, pinch, + -  zoom around the pointer      drag            pan, or moves the chosen box
//   double tap         in, and back to the whole    draw mode       drag makes a box

import { h, svg } from "./dom.js";
import { label } from "./words.js";

const CLOSEST = 12;
const HANDLE = 14;
const TAG_HEIGHT = 20;
/// Nobody sees a new picture sooner: a second tap, or a key that bounces, is about the one before.
const LOOK_MS = 250;

/// Places for the tags of boxes: each at its box, none over another one. `tags`: [{x, y, height, width}] with the
/// box's left upper corner and its height; returns a left upper corner for each.
export function placeTags(tags, stageWidth, stageHeight) {
  const taken = [];
  const isFree = (x, y, width) => taken.every((k) => x >= k.x + k.width || x + width <= k.x || y >= k.y + TAG_HEIGHT || y + TAG_HEIGHT <= k.y);
  return tags.map(({ x, y, height, width }) => {
    const inside = (value, max) => Math.max(0, Math.min(value, max));
    const left = inside(x - 1.5, stageWidth - width);
    // Above the box, below it, at its upper edge inside; else the nearest free line below these, then above.
    const wanted = [y - TAG_HEIGHT - 2, y + height + 2, y + 2];
    for (let step = 1; step <= 40; step++) wanted.push(y + height + 2 + step * (TAG_HEIGHT + 1), y - TAG_HEIGHT - 2 - step * (TAG_HEIGHT + 1));
    const fits = (top) => top >= 0 && top + TAG_HEIGHT <= stageHeight && isFree(left, top, width);
    const place = { x: left, y: wanted.find(fits) ?? inside(y - TAG_HEIGHT - 2, stageHeight - TAG_HEIGHT), width };
    taken.push(place);
    return place;
  });
}

export class Picture {
  /// `on`: {choose(index), edit(boxes, index), draw(bbox)}, and if wanted {painted(key), lost(key)}
  constructor(on) {
    this.on = on;
    this.boxes = [];
    this.chosen = -1;
    this.drawing = false;
    this.showBoxes = localStorage.getItem("boxes") !== "off";
    this.showGrid = false;
    this.showHeat = localStorage.getItem("heat") === "on";
    this.grid = [];
    this.pointers = new Map();
    this.img = h("img", { alt: "", draggable: "false", decoding: "async", onload: () => this.loaded() });
    this.layer = svg("svg", { class: "layer" });
    this.stage = h("div.stage", { tabindex: "-1" }, this.img, this.layer);
    const on1 = (name, what) => this.stage.addEventListener(name, what, { passive: false });
    on1("wheel", (e) => { e.preventDefault(); this.zoom(Math.exp(-e.deltaY * 0.0016), e.clientX, e.clientY); });
    on1("pointerdown", (e) => this.down(e));
    on1("pointermove", (e) => this.move(e));
    on1("pointerup", (e) => this.up(e));
    on1("pointercancel", (e) => this.up(e));
    on1("dblclick", (e) => (this.scale > this.whole * 1.05 ? this.fit() : this.zoom(3, e.clientX, e.clientY)));
    new ResizeObserver(() => { if (this.width) (this.touched ? this.place() : this.fit()); }).observe(this.stage);
  }

  /// Shows the picture of `key`. `on.painted(key)` says that it was decoded, a frame with it was drawn, and
  /// there was time to see it, and `on.lost(key)` that it cannot be; a picture that another one follows says neither.
  show(src, width, height, key) {
    if (this.src === src && this.key === key) return;
    [this.src, this.key] = [src, key];
    const turn = (this.turn = (this.turn || 0) + 1);
    this.touched = false;
    [this.width, this.height] = [width || 0, height || 0];
    this.img.style.visibility = "hidden";
    this.img.src = src;
    const isCurrent = () => turn === this.turn;
    this.img.decode().then(() => {
      if (!isCurrent()) return;
      this.loaded();
      // The first callback comes before the frame is drawn, the second after it.
      requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => { if (isCurrent()) this.on.painted?.(key); }, LOOK_MS)));
    }, () => { if (isCurrent()) { this.src = null; this.on.lost?.(key); } });
    if (this.width) this.fit();
  }

  loaded() {
    [this.width, this.height] = [this.img.naturalWidth, this.img.naturalHeight];
    this.img.style.visibility = "";
    if (!this.touched) this.fit();
    else this.place();
  }

  fit() {
    const { clientWidth: w, clientHeight: hh } = this.stage;
    if (!w || !this.width) return;
    this.whole = Math.min(w / this.width, hh / this.height);
    this.scale = this.whole;
    this.x = (w - this.width * this.scale) / 2;
    this.y = (hh - this.height * this.scale) / 2;
    this.touched = false;
    this.place();
  }

  zoom(factor, clientX, clientY) {
    const r = this.stage.getBoundingClientRect();
    const [px, py] = clientX === undefined ? [r.width / 2, r.height / 2] : [clientX - r.left, clientY - r.top];
    const scale = Math.min(CLOSEST, Math.max(this.whole * 0.9, this.scale * factor));
    this.x = px - (px - this.x) * (scale / this.scale);
    this.y = py - (py - this.y) * (scale / this.scale);
    this.scale = scale;
    this.touched = true;
    this.place();
  }

  /// Brings a box into view, close enough to judge it.
  focus(index) {
    const box = this.boxes[index];
    if (!box || !this.width) return;
    const [x0, y0, x1, y1] = box.bbox_px;
    const { clientWidth: w, clientHeight: hh } = this.stage;
    this.scale = Math.min(4, Math.max(this.whole, Math.min(w / (x1 - x0), hh / (y1 - y0)) * 0.35));
    this.x = w / 2 - ((x0 + x1) / 2) * this.scale;
    this.y = hh / 2 - ((y0 + y1) / 2) * this.scale;
    this.touched = true;
    this.place();
  }

  place() {
    const { clientWidth: w, clientHeight: hh } = this.stage;
    const [iw, ih] = [this.width * this.scale, this.height * this.scale];
    // At least a third of the view stays picture.
    this.x = Math.min(w * 0.66, Math.max(w * 0.34 - iw, this.x));
    this.y = Math.min(hh * 0.66, Math.max(hh * 0.34 - ih, this.y));
    this.img.style.width = iw + "px";
    this.img.style.height = ih + "px";
    this.img.style.transform = `translate(${this.x}px, ${this.y}px)`;
    this.img.classList.toggle("pixels", this.scale > 3);
    this.draw();
  }

  draw() {
    // Before the size of picture and view are known nothing has a place.
    if (!this.scale) return;
    const out = [];
    const at = (x, y) => [x * this.scale + this.x, y * this.scale + this.y];
    const rect = ([x0, y0, x1, y1], props) => { const [x, y] = at(x0, y0); return svg("rect", { x, y, width: (x1 - x0) * this.scale, height: (y1 - y0) * this.scale, ...props }); };
    if (this.showHeat && this.heat) {
      const [x, y] = at(0, 0);
      const { href, width, height } = this.heat;
      out.push(svg("image", { href, x, y, width: width * this.scale, height: height * this.scale, class: "heat", preserveAspectRatio: "none" }));
    }
    if (this.showGrid) for (const tile of this.grid) out.push(rect(tile, { class: this.skipped.has(`${tile}`) ? "tile skipped" : "tile" }));
    if (this.showBoxes) {
      const words = this.boxes.map((box, i) => `${i + 1} ${label(box.label)}`);
      const wide = (text) => [...text].reduce((sum, c) => sum + (c > "\u2e80" ? 13.5 : 7.6), 12);
      // Tags of boxes that are out of sight take no place.
      const seen = (box) => { const [[x0, y0], [x1, y1]] = [at(box.bbox_px[0], box.bbox_px[1]), at(box.bbox_px[2], box.bbox_px[3])]; return x1 > 0 && y1 > 0 && x0 < this.stage.clientWidth && y0 < this.stage.clientHeight; };
      const shown = this.boxes.map((box, i) => i).filter((i) => seen(this.boxes[i])).sort((a, b) => (b === this.chosen) - (a === this.chosen));
      const spots = placeTags(shown.map((i) => { const [x0, y0, , y1] = this.boxes[i].bbox_px; const [x, y] = at(x0, y0); return { x, y, height: (y1 - y0) * this.scale, width: wide(words[i]) }; }), this.stage.clientWidth, this.stage.clientHeight);
      const tags = new Map(shown.map((i, k) => [i, spots[k]]));
      this.boxes.forEach((box, i) => {
        const [x0, y0, x1, y1] = box.bbox_px;
        const on = i === this.chosen;
        out.push(rect(box.bbox_px, { class: `halo ${on ? "on" : ""}` }), rect(box.bbox_px, { class: `box ${box.severity} ${on ? "on" : ""} ${box.mine ? "mine" : ""}` }));
        const tag = tags.get(i);
        if (tag) out.push(svg("g", { class: `tag ${box.severity} ${on ? "on" : ""}` }, svg("rect", { x: tag.x, y: tag.y, width: tag.width, height: TAG_HEIGHT, rx: 3 }), svg("text", { x: tag.x + 6, y: tag.y + 14.5 }, words[i])));
        if (on && this.editable) for (const [hx, hy] of [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) { const [cx, cy] = at(hx, hy); out.push(svg("circle", { cx, cy, r: 6, class: "handle" })); }
      });
    }
    if (this.band) out.push(rect(this.band, { class: "band" }));
    this.layer.replaceChildren(...out);
    this.stage.classList.toggle("drawing", this.drawing);
  }

  /// Takes a heat map ({place_px, cols, places}), or none: yellow over a quarter, red where it is a finding.
  setHeat(map) {
    this.heat = null;
    if (!map) return;
    const rows = map.places.length / map.cols;
    const canvas = h("canvas", { width: map.cols, height: rows });
    const brush = canvas.getContext("2d");
    const image = brush.createImageData(map.cols, rows);
    map.places.forEach((v, i) => image.data.set([255, Math.max(0, 220 - Math.max(0, v - 64) * 2), 0, v < 64 ? 0 : Math.min(190, 40 + v * 0.6)], i * 4));
    brush.putImageData(image, 0, 0);
    this.heat = { href: canvas.toDataURL(), width: map.cols * map.place_px, height: rows * map.place_px };
  }

  spot(e) {
    const r = this.stage.getBoundingClientRect();
    const clip = (v, max) => Math.min(max, Math.max(0, v));
    const [sx, sy] = [e.clientX - r.left, e.clientY - r.top];
    return { sx, sy, x: clip((sx - this.x) / this.scale, this.width), y: clip((sy - this.y) / this.scale, this.height) };
  }

  /// The smallest box under a spot, with some room for a gloved finger.
  under(s, touch) {
    const room = (touch ? 16 : 5) / this.scale;
    let [best, size] = [-1, Infinity];
    this.boxes.forEach(({ bbox_px: [x0, y0, x1, y1] }, i) => {
      const area = (x1 - x0) * (y1 - y0);
      if (s.x >= x0 - room && s.x <= x1 + room && s.y >= y0 - room && s.y <= y1 + room && area < size) [best, size] = [i, area];
    });
    return best;
  }

  down(e) {
    if (!this.width || e.button > 0) return;
    this.stage.setPointerCapture(e.pointerId);
    const s = this.spot(e);
    this.pointers.set(e.pointerId, s);
    if (this.pointers.size === 2) { this.act = { kind: "pinch", apart: this.apart() }; this.band = null; return; }
    if (this.drawing) { this.act = { kind: "draw", from: s }; return; }
    const chosen = this.boxes[this.chosen];
    if (chosen && this.editable && this.showBoxes) {
      const [x0, y0, x1, y1] = chosen.bbox_px;
      const near = (x, y) => Math.hypot(x * this.scale + this.x - s.sx, y * this.scale + this.y - s.sy) < (e.pointerType === "touch" ? HANDLE * 2 : HANDLE);
      const corner = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]].findIndex(([x, y]) => near(x, y));
      if (corner >= 0) { this.act = { kind: "resize", corner, from: s, was: [x0, y0, x1, y1] }; return; }
      if (s.x >= x0 && s.x <= x1 && s.y >= y0 && s.y <= y1) { this.act = { kind: "drag", from: s, was: [x0, y0, x1, y1] }; return; }
    }
    this.act = { kind: "pan", from: s, x: this.x, y: this.y, touch: e.pointerType === "touch" };
  }

  apart() {
    const [a, b] = [...this.pointers.values()];
    return { d: Math.hypot(a.sx - b.sx, a.sy - b.sy), x: (a.sx + b.sx) / 2, y: (a.sy + b.sy) / 2 };
  }

  move(e) {
    if (!this.pointers.has(e.pointerId) || !this.act) return;
    const s = this.spot(e);
    this.pointers.set(e.pointerId, s);
    const a = this.act;
    const far = a.from && Math.hypot(s.sx - a.from.sx, s.sy - a.from.sy) > 4;
    if (far) a.moved = true;
    if (a.kind === "pinch") {
      const now = this.apart();
      const r = this.stage.getBoundingClientRect();
      this.x += now.x - a.apart.x;
      this.y += now.y - a.apart.y;
      this.zoom(now.d / Math.max(1, a.apart.d), now.x + r.left, now.y + r.top);
      a.apart = now;
    } else if (a.kind === "pan" && a.moved) {
      [this.x, this.y, this.touched] = [a.x + s.sx - a.from.sx, a.y + s.sy - a.from.sy, true];
      this.place();
    } else if (a.kind === "draw") {
      this.band = [Math.min(a.from.x, s.x), Math.min(a.from.y, s.y), Math.max(a.from.x, s.x), Math.max(a.from.y, s.y)];
      this.draw();
    } else if ((a.kind === "drag" || a.kind === "resize") && a.moved) {
      const [dx, dy] = [s.x - a.from.x, s.y - a.from.y];
      let [x0, y0, x1, y1] = a.was;
      if (a.kind === "drag") {
        const mx = Math.min(this.width - x1, Math.max(-x0, dx));
        const my = Math.min(this.height - y1, Math.max(-y0, dy));
        [x0, y0, x1, y1] = [x0 + mx, y0 + my, x1 + mx, y1 + my];
      } else {
        if (a.corner === 0 || a.corner === 3) x0 = Math.min(x0 + dx, x1 - 3); else x1 = Math.max(x1 + dx, x0 + 3);
        if (a.corner < 2) y0 = Math.min(y0 + dy, y1 - 3); else y1 = Math.max(y1 + dy, y0 + 3);
      }
      this.boxes[this.chosen] = { ...this.boxes[this.chosen], bbox_px: [Math.max(0, x0), Math.max(0, y0), Math.min(this.width, x1), Math.min(this.height, y1)] };
      this.draw();
    }
  }

  up(e) {
    if (!this.pointers.delete(e.pointerId) || !this.act) return;
    const a = this.act;
    if (a.kind === "pinch") { this.act = this.pointers.size ? { kind: "none" } : null; return; }
    this.act = null;
    const band = this.band;
    this.band = null;
    if (a.kind === "draw") {
      if (band && band[2] - band[0] >= 3 && band[3] - band[1] >= 3) this.on.draw(band.map((v) => Math.round(v)));
      else this.draw();
    } else if (a.kind === "pan" && !a.moved) {
      this.on.choose(this.under(this.spot(e), a.touch));
    } else if (a.moved && (a.kind === "drag" || a.kind === "resize")) {
      this.on.edit(this.boxes, this.chosen);
    }
  }
}
