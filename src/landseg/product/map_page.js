// Draws the map of a page: ground, classes, borders; moves, zooms, and says what lies under the pointer.
// Vocabulary: a place is in pixels of the picture, a point in pixels of the screen; point = place * view.scale + view.at.
(async () => {
  "use strict";
  const $ = id => document.getElementById(id);
  const about = JSON.parse($("about").textContent);
  const stage = $("stage"), canvas = $("map"), pen = canvas.getContext("2d"), tip = $("tip"), card = $("parcel");
  const quiet = card.innerHTML, ground = $("ground");
  if (!("DecompressionStream" in window)) {
    $("wait").textContent = "This browser is too old to unpack the map. The figures are complete.";
    return;
  }

  // What the page holds.
  const unpacked = async id => {
    const letters = atob($(id).textContent), bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  };
  const ids = new Uint8Array(await unpacked("ids")), columns = await unpacked("shapes");
  const [count, rings, vertices, steps] = about.shapes;
  let offset = 0;
  const column = (type, length) => {
    const found = new type(columns, offset, length);
    offset += length * type.BYTES_PER_ELEMENT;
    return found;
  };
  const areas = column(Float32Array, count), perimeters = column(Float32Array, count);
  const ringsOf = column(Uint32Array, count), verticesOf = column(Uint32Array, rings);
  const dx = column(Int16Array, vertices), dy = column(Int16Array, vertices);
  const classOf = column(Uint8Array, count), sureOf = column(Uint8Array, count);
  const xs = new Float32Array(vertices), ys = new Float32Array(vertices);
  for (let i = 0, x = 0, y = 0; i < vertices; i++) {
    xs[i] = (x += dx[i]) / steps;
    ys[i] = (y += dy[i]) / steps;
  }
  const sums = lengths => {
    const ends = new Uint32Array(lengths.length + 1);
    for (let i = 0; i < lengths.length; i++) ends[i + 1] = ends[i] + lengths[i];
    return ends;
  };
  const firstRing = sums(ringsOf), firstVertex = sums(verticesOf);
  const boxes = new Float32Array(4 * count);  // left, top, right, bottom
  for (let i = 0; i < count; i++) {
    let left = Infinity, top = Infinity, right = -Infinity, bottom = -Infinity;
    for (let v = firstVertex[firstRing[i]]; v < firstVertex[firstRing[i] + 1]; v++) {
      left = Math.min(left, xs[v]); right = Math.max(right, xs[v]);
      top = Math.min(top, ys[v]); bottom = Math.max(bottom, ys[v]);
    }
    boxes.set([left, top, right, bottom], 4 * i);
  }

  // Parcels by the cells of a coarse lattice.
  const CELLS = 64, cells = Array.from({length: CELLS * CELLS}, () => []);
  const cellRange = (low, high, size) => [low, high].map(at => Math.min(CELLS - 1, Math.max(0, Math.floor(at / size * CELLS))));
  const eachCell = (left, top, right, bottom, visit) => {
    const [west, east] = cellRange(left, right, about.width), [north, south] = cellRange(top, bottom, about.height);
    for (let row = north; row <= south; row++) for (let col = west; col <= east; col++) visit(cells[row * CELLS + col]);
  };
  for (let i = 0; i < count; i++) eachCell(...boxes.subarray(4 * i, 4 * i + 4), cell => cell.push(i));
  const seen = new Uint32Array(count);
  let round = 0;

  // The picture of the classes, in the colours of those that are shown.
  const [idsWidth, idsHeight] = about.ids;
  const tint = document.createElement("canvas"), inks = tint.getContext("2d");
  tint.width = idsWidth;
  tint.height = idsHeight;
  const image = inks.createImageData(idsWidth, idsHeight), pixels = new Uint32Array(image.data.buffer);
  const paint = () => {
    const colours = new Uint32Array(256);
    for (const [id, [, colour]] of Object.entries(about.classes)) {
      const [red, green, blue] = [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
      if (alone === null || alone === +id) colours[id] = (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
    }
    for (let i = 0; i < ids.length; i++) pixels[i] = colours[ids[i]];
    inks.putImageData(image, 0, 0);
  };

  // What is shown.
  const shows = {ground: true, classes: true, borders: true};
  let opacity = +$("opacity").value / 100, alone = null, over = -1, chosen = -1, isQuick = false, isAsked = false, settle = 0;
  const view = {scale: 1, x: 0, y: 0};
  let wide = 1, high = 1, ratio = 1;
  const layer = document.createElement("canvas"), brush = layer.getContext("2d");

  const whole = () => {
    const margin = Math.min(24, wide * 0.03);
    return Math.min((wide - 2 * margin) / about.width, (high - 2 * margin) / about.height);
  };
  const showAll = () => {
    view.scale = whole();
    view.x = (wide - about.width * view.scale) / 2;
    view.y = (high - about.height * view.scale) / 2;
  };
  const keepInside = () => {
    // A part of the map always stays in the middle of the window.
    view.x = Math.min(wide / 2, Math.max(wide / 2 - about.width * view.scale, view.x));
    view.y = Math.min(high / 2, Math.max(high / 2 - about.height * view.scale, view.y));
  };
  const zoom = (factor, x = wide / 2, y = high / 2) => {
    const scale = Math.min(Math.max(view.scale * factor, whole() / 2), Math.max(64, whole() * 8));
    view.x = x - (x - view.x) * scale / view.scale;
    view.y = y - (y - view.y) * scale / view.scale;
    view.scale = scale;
    moved();
  };
  const moved = () => {
    keepInside();
    isQuick = true;
    clearTimeout(settle);
    settle = setTimeout(() => { isQuick = false; ask(); }, 140);
    ask();
  };
  const ask = () => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => { isAsked = false; draw(); });
  };

  const trace = (pen, i) => {
    for (let ring = firstRing[i]; ring < firstRing[i + 1]; ring++) {
      let v = firstVertex[ring];
      pen.moveTo(xs[v] * view.scale + view.x, ys[v] * view.scale + view.y);
      for (v++; v < firstVertex[ring + 1]; v++) pen.lineTo(xs[v] * view.scale + view.x, ys[v] * view.scale + view.y);
      pen.closePath();
    }
  };
  // The largest first, those alone that are more than a dot on the screen.
  const visible = () => {
    const least = 5 * (about.pixel / view.scale) ** 2, most = isQuick ? 6000 : 40000, found = [];
    const left = -view.x / view.scale, top = -view.y / view.scale, right = left + wide / view.scale, bottom = top + high / view.scale;
    const isIn = i => boxes[4 * i] < right && boxes[4 * i + 2] > left && boxes[4 * i + 1] < bottom && boxes[4 * i + 3] > top;
    const isShown = i => (alone === null || classOf[i] === alone) && isIn(i);
    if (right - left > about.width / 2 || bottom - top > about.height / 2) {
      for (let i = 0; i < count && areas[i] > least && found.length < most; i++) if (isShown(i)) found.push(i);
      return found;
    }
    round++;
    eachCell(left, top, right, bottom, cell => {
      for (const i of cell) {
        if (areas[i] <= least) break;
        if (seen[i] !== round && isShown(i)) found.push(i);
        seen[i] = round;
      }
    });
    found.sort((a, b) => a - b);
    return found.slice(0, most);
  };

  const draw = () => {
    const {scale, x, y} = view, width = about.width * scale, height = about.height * scale;
    const dark = matchMedia("(prefers-color-scheme: dark)").matches, hasGround = ground && shows.ground;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, wide, high);
    pen.lineJoin = "round";
    pen.imageSmoothingQuality = "high";
    pen.fillStyle = dark ? "#1b2323" : "#fcfbf8";
    pen.fillRect(x, y, width, height);
    if (hasGround) {
      pen.imageSmoothingEnabled = scale * ratio < 6;
      pen.drawImage(ground, x, y, width, height);
    }
    const found = visible();
    if (shows.classes && opacity > 0) {
      pen.globalAlpha = opacity;
      if (scale * ratio > 1.5 && found.length < 4000 && !isQuick) {
        // Near by, parcels are filled themselves: their borders are finer than the picture's pixels.
        brush.setTransform(ratio, 0, 0, ratio, 0, 0);
        brush.clearRect(0, 0, wide, high);
        brush.imageSmoothingEnabled = false;
        brush.drawImage(tint, x, y, width, height);
        brush.lineJoin = "round";
        brush.lineWidth = 1;
        for (const i of found) {
          brush.fillStyle = brush.strokeStyle = about.classes[classOf[i]][1];
          brush.beginPath();
          trace(brush, i);
          brush.fill("evenodd");
          brush.stroke();
        }
        pen.drawImage(layer, 0, 0, wide, high);
      } else {
        pen.imageSmoothingEnabled = scale * ratio < 1;
        pen.drawImage(tint, x, y, width, height);
      }
      pen.globalAlpha = 1;
    }
    // Thin and faint where parcels are small on the screen, so that lines do not cover them.
    const middle = found.length ? Math.sqrt(areas[found[found.length >> 1]]) / about.pixel * scale : 0;
    if (shows.borders && middle > 3) {
      pen.globalAlpha = Math.min(1, (middle - 3) / 9);
      pen.lineWidth = Math.min(1.5, Math.max(0.5, middle / 22));
      pen.strokeStyle = hasGround ? "rgb(255 255 255/.88)" : dark ? "rgb(10 16 16/.75)" : "rgb(255 255 255/.9)";
      for (let from = 0; from < found.length; from += 500) {
        pen.beginPath();
        for (let i = from; i < Math.min(from + 500, found.length); i++) trace(pen, found[i]);
        pen.stroke();
      }
      pen.globalAlpha = 1;
    }
    for (const [i, thick] of [[over, 2.5], [chosen, 3]]) {
      if (i < 0) continue;
      pen.beginPath();
      trace(pen, i);
      pen.strokeStyle = "rgb(255 255 255/.95)";
      pen.lineWidth = thick + 2.5;
      pen.stroke();
      pen.strokeStyle = i === chosen ? "#12211f" : "#2c5a50";
      pen.lineWidth = thick - 0.5;
      pen.stroke();
    }
    measure();
  };

  const round125 = most => {
    const power = 10 ** Math.floor(Math.log10(most));
    return [5, 2, 1].map(step => step * power).find(length => length <= most * 1.000001);
  };
  const measure = () => {
    const metres = about.pixel / view.scale, length = round125(Math.min(150, wide * 0.3) * metres);
    const text = length >= 1000 ? `${length / 1000} km` : length >= 1 ? `${length} m` : `${+(length * 100).toPrecision(1)} cm`;
    const [words, bar] = $("scale").children;
    words.textContent = text;
    bar.style.width = `${length / metres}px`;
  };

  // Which parcel lies at a point: the smallest that holds it.
  const at = (x, y) => {
    const col = (x - view.x) / view.scale, row = (y - view.y) / view.scale;
    if (col < 0 || row < 0 || col >= about.width || row >= about.height) return -1;
    let found = -1;
    eachCell(col, row, col, row, cell => {
      for (let k = cell.length - 1; k >= 0 && found < 0; k--) {
        const i = cell[k];
        if (boxes[4 * i] > col || boxes[4 * i + 2] < col || boxes[4 * i + 1] > row || boxes[4 * i + 3] < row) continue;
        if (alone !== null && classOf[i] !== alone) continue;
        if (holds(i, col, row)) found = i;
      }
    });
    return found;
  };
  const holds = (i, x, y) => {
    let isInside = false;
    for (let ring = firstRing[i]; ring < firstRing[i + 1]; ring++) {
      const first = firstVertex[ring], end = firstVertex[ring + 1];
      for (let v = first, w = end - 1; v < end; w = v++) {
        if (ys[v] > y !== ys[w] > y && x < (xs[w] - xs[v]) * (y - ys[v]) / (ys[w] - ys[v]) + xs[v]) isInside = !isInside;
      }
    }
    return isInside;
  };
  const classAt = (x, y) => {
    const col = (x - view.x) / view.scale, row = (y - view.y) / view.scale;
    if (col < 0 || row < 0 || col >= about.width || row >= about.height) return null;
    const id = ids[Math.floor(row / about.height * idsHeight) * idsWidth + Math.floor(col / about.width * idsWidth)];
    return about.classes[id] && (alone === null || alone === id) ? about.classes[id][0] : null;
  };

  // Words.
  const number = (value, digits) => value.toLocaleString("en", {maximumSignificantDigits: digits});
  const squares = m2 => `${m2 >= 100 ? number(Math.round(m2), 15) : number(m2, 3)} m²`;
  const hectares = m2 => `${number(m2 / 1e4, 4)} ha`;
  const element = (tag, text = "", name = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = name;
    return made;
  };
  const swatch = colour => {
    const made = element("i", "", "swatch");
    made.style.background = colour;
    return made;
  };
  const choose = i => {
    chosen = i;
    if (i < 0) {
      card.innerHTML = quiet;
      return ask();
    }
    const [name, colour] = about.classes[classOf[i]], box = element("div", "", "card"), head = element("h2"), list = element("dl");
    head.append(swatch(colour), element("span", name));
    const line = (term, ...value) => {
      const cell = element("dd");
      cell.append(...value);
      list.append(element("dt", term), cell);
    };
    line("Area", areas[i] >= 1000 ? `${hectares(areas[i])} · ${squares(areas[i])}` : squares(areas[i]));
    line("Perimeter", perimeters[i] >= 1e4 ? `${number(perimeters[i] / 1000, 4)} km` : `${number(perimeters[i], perimeters[i] < 100 ? 3 : 4)} m`);
    if (sureOf[i] !== 255) {
      const meter = element("span", "", "meter"), part = element("i");
      part.style.cssText = `width:${sureOf[i] / 2}%;background:var(--accent)`;
      meter.append(part);
      line("Confidence", meter, `${Math.round(sureOf[i] / 2)} %`);
    }
    if (ringsOf[i] > 1) line("Holes", `${number(ringsOf[i] - 1, 9)}`);
    const row = element("div", "", "row"), go = element("button", "Zoom to it"), leave = element("button", "Close");
    go.type = leave.type = "button";
    go.onclick = () => {
      const [left, top, right, bottom] = boxes.subarray(4 * i, 4 * i + 4);
      view.scale = Math.min(0.6 * wide / Math.max(right - left, 0.1), 0.6 * high / Math.max(bottom - top, 0.1), Math.max(64, whole() * 8));
      view.x = wide / 2 - (left + right) / 2 * view.scale;
      view.y = high / 2 - (top + bottom) / 2 * view.scale;
      moved();
    };
    leave.onclick = () => choose(-1);
    row.append(go, leave);
    box.append(head, list, row);
    card.replaceChildren(box);
    ask();
  };
  const say = (x, y) => {
    over = at(x, y);
    const name = over >= 0 ? about.classes[classOf[over]][0] : classAt(x, y);
    canvas.classList.toggle("over", over >= 0);
    tip.hidden = name === null;
    if (name !== null) {
      tip.replaceChildren(element("b", name));
      if (over >= 0) tip.append(element("small", areas[over] >= 1000 ? hectares(areas[over]) : squares(areas[over])));
      const left = x + 18 + tip.offsetWidth < wide ? x + 16 : x - 14 - tip.offsetWidth;
      tip.style.transform = `translate(${Math.max(4, left)}px,${Math.min(Math.max(4, y + 14), high - tip.offsetHeight - 4)}px)`;
    }
    const col = (x - view.x) / view.scale, row = (y - view.y) / view.scale, [a, b, c, d, e, f] = about.to;
    const digits = about.geographic ? 6 : about.pixel < 1 ? 1 : 0;
    const isOn = col >= 0 && row >= 0 && col < about.width && row < about.height;
    $("place").textContent = isOn ? [a * col + b * row + c, d * col + e * row + f].map(value => value.toFixed(digits)).join("  ") : "";
    ask();
  };
  const hush = () => {
    over = -1;
    tip.hidden = true;
    $("place").textContent = "";
    ask();
  };

  // Pointers: one moves the map, two zoom it.
  const pointers = new Map();
  let travelled = 0;
  const point = event => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  canvas.addEventListener("pointerdown", event => {
    if (event.button > 0) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, point(event));
    if (pointers.size === 1) travelled = 0;
  });
  canvas.addEventListener("pointermove", event => {
    const now = point(event), before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse" || event.pointerType === "pen") say(...now);
      return;
    }
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
    pointers.set(event.pointerId, now);
    if (travelled < 4) return;
    canvas.classList.add("drag");
    tip.hidden = true;
    const share = other ? 0.5 : 1;
    view.x += (now[0] - before[0]) * share;
    view.y += (now[1] - before[1]) * share;
    if (other) {
      const apart = place => Math.max(1, Math.hypot(place[0] - other[0], place[1] - other[1]));
      zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else moved();
  });
  const lift = event => {
    if (!pointers.delete(event.pointerId)) return;
    canvas.classList.remove("drag");
    if (event.type === "pointerup" && travelled < 4) {
      const found = at(...point(event));
      choose(found === chosen ? -1 : found);
      if (event.pointerType === "touch") say(...point(event));
    }
    if (pointers.size) travelled = 4;  // the finger that stays does not choose
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", event => { if (event.pointerType !== "touch") hush(); });
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 18 : event.deltaMode === 2 ? 300 : 1;
    zoom(2 ** (-event.deltaY * lines * (event.ctrlKey ? 0.012 : 0.0028)), ...point(event));
  }, {passive: false});
  canvas.addEventListener("dblclick", event => zoom(2, ...point(event)));
  canvas.addEventListener("keydown", event => {
    const step = 80, ways = {ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step]};
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (ways[event.key]) {
      view.x += ways[event.key][0];
      view.y += ways[event.key][1];
      moved();
    } else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-" || event.key === "_") zoom(1 / 1.5);
    else if (event.key === "0" || event.key === "Home") { showAll(); moved(); }
    else if (event.key === "Enter" || event.key === " ") choose(at(wide / 2, high / 2));
    else if (event.key === "Escape") choose(-1);
    else return;
    event.preventDefault();
  });

  // Buttons.
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.onclick = () => {
      if (button.dataset.zoom === "all") { showAll(); moved(); } else zoom(button.dataset.zoom === "in" ? 1.6 : 1 / 1.6);
    };
  }
  for (const box of document.querySelectorAll("[data-layer]")) {
    const set = () => { shows[box.dataset.layer] = box.checked; ask(); };
    box.onchange = set;
    set();
  }
  const slide = () => {
    opacity = +$("opacity").value / 100;
    $("opacity").nextElementSibling.textContent = `${$("opacity").value} %`;
    ask();
  };
  $("opacity").oninput = slide;
  slide();
  for (const row of document.querySelectorAll("tr[data-class]")) {
    row.querySelector("button").onclick = () => {
      alone = alone === +row.dataset.class ? null : +row.dataset.class;
      for (const other of document.querySelectorAll("tr[data-class]")) {
        const isIt = alone === +other.dataset.class;
        other.classList.toggle("off", alone !== null && !isIt);
        other.querySelector("button").setAttribute("aria-pressed", isIt);
      }
      if (chosen >= 0 && alone !== null && classOf[chosen] !== alone) choose(-1);
      paint();
      ask();
    };
  }
  new ResizeObserver(() => {
    const isFirst = wide === 1, isAll = Math.abs(view.scale / whole() - 1) < 1e-6;
    const middle = [(wide / 2 - view.x) / view.scale, (high / 2 - view.y) / view.scale];
    [wide, high] = [Math.max(2, stage.clientWidth), Math.max(2, stage.clientHeight)];
    ratio = window.devicePixelRatio || 1;
    for (const each of [canvas, layer]) [each.width, each.height] = [Math.round(wide * ratio), Math.round(high * ratio)];
    if (isFirst || isAll) showAll();
    else [view.x, view.y] = [wide / 2 - middle[0] * view.scale, high / 2 - middle[1] * view.scale];
    draw();
  }).observe(stage);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ask);
  if (ground) await ground.decode().catch(() => {});
  paint();
  $("wait").remove();
  ask();
})();
