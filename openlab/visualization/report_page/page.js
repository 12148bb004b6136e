'use strict';
/* Everything on the page is made from the JSON in #data. Names in it come from files and
   annotations: they reach the document as text (textContent), never as markup.

   An item: n name · w h size of the image · rw rh size of its masks · img number of its picture ·
   t true and p predicted objects · e wrong pixels by kind · l a class label.
   An object: c class · s score · b box · k kind · o partner · u overlap · m mask · a area ·
   f, v scores at which a true object is found, and covered by an error of class or place. */
const data = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);
const isLabel = data.task === 'classification', isMap = data.task === 'semantic';
const hasBoxes = data.task === 'detection' || data.task === 'instance';
const hasMasks = data.task !== 'classification' && data.task !== 'detection';
const RIGHT = 'right';
const SORTS = {worst: 'Worst first', name: 'Name', low: 'Score of the image, lowest first',
  high: 'Score of the image, highest first'};
const LAYERS = [['truth', 'Truth', !isLabel], ['prediction', 'Prediction', !isLabel],
  ['errors', 'Wrong pixels', isMap], ['masks', 'Masks', hasMasks], ['boxes', 'Boxes', hasBoxes],
  ['labels', 'Labels', !isLabel && !isMap], ['kinds', 'Error names', !isLabel && !isMap]];
const state = {search: '', kinds: new Set(), classes: new Set(), sort: 'worst',
  threshold: data.threshold, layers: {}, over: false, opacity: 0.45, page: 0, size: 24};
for (const [key, , there] of LAYERS) state.layers[key] = there;

function make(tag, options = {}, ...children) {
  const element = tag.startsWith('svg:')
    ? document.createElementNS('http://www.w3.org/2000/svg', tag.slice(4))
    : document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (key === 'text') element.textContent = value;
    else if (key === 'on') for (const [name, call] of Object.entries(value)) element.addEventListener(name, call);
    else if (key in element && key !== 'list' && !tag.startsWith('svg:')) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}
const className = c => c < 0 ? (isMap ? 'several' : '?') : data.classes[c] ?? String(c);
const colour = c => c < 0 ? '#7a828e' : data.colours[c] ?? '#7a828e';
const kindName = k => data.kinds[k] ? data.kinds[k].name
  : {right: isMap ? 'Occurs' : 'Right', ignored: 'Ignored', covered: 'Found wrongly'}[k] ?? k;
const percent = v => v >= .9995 && v < 1 ? '>99.9%' : v > .995 && v < 1 ? (v * 100).toFixed(1) + '%' : Math.round(v * 100) + '%';
function swatch(tint) {
  const element = make('span', {className: 'swatch'});
  element.style.background = tint;
  return element;
}
/** Black or white, whichever can be read better on a colour. */
function ink(hex) {
  const [r, g, b] = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16) / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b > .18 ? '#000' : '#fff';
}

/* ---- what an item says at a threshold --------------------------------------------------- */

const isShown = (object, threshold) => object.s == null || object.s >= threshold;
function trueKind(object, threshold) {
  if (isMap || object.k === 'ignored') return object.k;
  if (object.f >= threshold) return RIGHT;
  return object.v >= threshold ? 'covered' : 'missed';
}
/** Errors as {kind, classes, weight}, and the numbers an item is sorted by. */
function judge(item) {
  if (item.judged && item.judged.threshold === state.threshold) return item.judged;
  const threshold = state.threshold, errors = [];
  let severity = item.sev, quality = item.q;
  if (isLabel) {
    if (item.l.k !== RIGHT) errors.push({kind: item.l.k, classes: [item.l.t, item.l.p]});
  } else if (isMap) {
    for (const e of item.e) errors.push({kind: e.k, classes: [e.t, e.p], pixels: e.n});
  } else {
    let tie = 0, hits = 0, found = 0, alarms = 0, lost = 0;
    for (const p of item.p) {
      if (!isShown(p, threshold)) continue;
      if (p.k === RIGHT) { hits += data.task === 'panoptic' ? p.u : 1; found += 1; }
      else if (p.k !== 'ignored') {
        alarms += 1;
        tie += p.s ?? 1;
        errors.push({kind: p.k, classes: p.o >= 0 ? [p.c, item.t[p.o].c] : [p.c]});
      }
    }
    for (const t of item.t) {
      const kind = trueKind(t, threshold);
      if (kind === 'missed') errors.push({kind, classes: [t.c]});
      if (kind === 'missed' || kind === 'covered') lost += 1;
    }
    severity = errors.length + tie / 1000;
    const counted = found + (alarms + lost) / 2;
    quality = counted ? hits / counted : 1;
  }
  return item.judged = {threshold, errors, severity, quality};
}
const meets = (set, classes) => !set.size || classes.some(c => set.has(c));
function holdsClass(item) {
  if (isLabel) return meets(state.classes, [item.l.t, item.l.p]);
  return item.t.some(t => state.classes.has(t.c))
    || item.p.some(p => isShown(p, state.threshold) && state.classes.has(p.c));
}
const named = item => item.n.toLowerCase().includes(state.search);
function passes(item) {
  if (!named(item)) return false;
  const {errors} = judge(item);
  if (!state.kinds.size) return !state.classes.size || holdsClass(item);
  if (state.kinds.has(RIGHT) && !errors.length && (!state.classes.size || holdsClass(item))) return true;
  return errors.some(e => state.kinds.has(e.kind) && meets(state.classes, e.classes));
}
const ORDERS = {
  worst: (a, b) => judge(b).severity - judge(a).severity,
  name: (a, b) => a.n.localeCompare(b.n, 'en', {numeric: true}),
  low: (a, b) => judge(a).quality - judge(b).quality,
  high: (a, b) => judge(b).quality - judge(a).quality,
};
let chosen = [];

/* ---- masks: runs of 0 and 1 in reading order, as base64 of LEB128 numbers ----------------- */

function runsOf(text) {
  const bytes = atob(text), runs = [];
  for (let i = 0, value = 0, shift = 0; i < bytes.length; i++) {
    const byte = bytes.charCodeAt(i);
    value += (byte & 127) * 2 ** shift;
    if (byte & 128) shift += 7; else { runs.push(value); value = 0; shift = 0; }
  }
  return runs;
}
const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
/** Paint masks (the largest first, so that none is hidden) with an outline each. */
function paint(canvas, item, layers) {
  const width = canvas.width = item.rw, height = canvas.height = item.rh;
  const context = canvas.getContext('2d', {willReadFrequently: true}), image = context.createImageData(width, height);
  const pixels = image.data, inside = new Uint8Array(width * height);
  layers.sort((a, b) => b.area - a.area);
  for (const {mask, tint, faint, solid} of layers) {
    inside.fill(0);
    let place = 0, value = 0;
    for (const run of runsOf(mask)) { if (value) inside.fill(1, place, place + run); place += run; value ^= 1; }
    const [r, g, b] = rgb(tint), alpha = solid ? 255 : Math.round(255 * (faint ? .1 : state.opacity));
    for (let i = 0; i < inside.length; i++) {
      if (!inside[i]) continue;
      const x = i % width;
      const edge = !solid && !faint && (x === 0 || x === width - 1 || i < width || i >= inside.length - width
        || !inside[i - 1] || !inside[i + 1] || !inside[i - width] || !inside[i + width]);
      pixels[4 * i] = r; pixels[4 * i + 1] = g; pixels[4 * i + 2] = b;
      pixels[4 * i + 3] = edge ? 255 : Math.max(alpha, faint ? pixels[4 * i + 3] : 0);
    }
  }
  context.putImageData(image, 0, 0);
}

/* ---- panels ------------------------------------------------------------------------------- */

/** Objects of a side that are drawn, with whether the filters pass over them. */
function objectsOf(item, side) {
  const threshold = state.threshold, kinds = state.kinds, wanted = state.classes;
  const errorKinds = new Set([...kinds].filter(k => k !== RIGHT));
  const fitsClass = (object, others) => !wanted.size || wanted.has(object.c)
    || (object.o >= 0 && others[object.o] && wanted.has(others[object.o].c));
  const partners = new Set();
  if (side === 'truth') for (const p of item.p)
    if (isShown(p, threshold) && errorKinds.has(p.k) && p.o >= 0) partners.add(p.o);
  const list = side === 'truth' ? item.t : item.p, others = side === 'truth' ? item.p : item.t;
  return list.map((object, index) => {
    const kind = side === 'truth' ? trueKind(object, threshold) : object.k;
    const fitsKind = isMap || !errorKinds.size || errorKinds.has(kind) || partners.has(index);
    return {object, index, kind, side, faint: !(fitsClass(object, others) && fitsKind)};
  }).filter(o => side === 'truth' || isShown(o.object, threshold));
}
const regionsOf = item => item.e.filter(e => (!state.kinds.size || state.kinds.has(e.k))
  && meets(state.classes, [e.t, e.p]));
function sidesOf() {
  const {truth, prediction, errors} = state.layers;
  const sides = [];
  if (state.over && truth && prediction) sides.push(['truth', 'prediction']);
  else { if (truth) sides.push(['truth']); if (prediction) sides.push(['prediction']); }
  if (isMap && errors) sides.push(['errors']);
  return sides.length ? sides : [[]];
}
/** One picture with its layers; the image is read from its script element when first needed. */
function stage(item, sides) {
  const image = make('img', {alt: '', src: $('image-' + item.img).textContent.trim(), draggable: false});
  const canvas = make('canvas'), svg = make('svg:svg', {viewBox: `0 0 ${item.w} ${item.h}`, preserveAspectRatio: 'none', 'aria-hidden': 'true'});
  const box = make('div', {className: 'stage'}, image, canvas, svg);
  box.style.aspectRatio = `${item.w} / ${item.h}`;
  box.classList.toggle('coarse', Math.max(item.w, item.h) <= 128);
  const layers = [];
  if (sides.includes('errors')) {
    box.classList.add('grey');
    for (const e of regionsOf(item)) layers.push({mask: e.m, tint: data.kinds[e.k].colour, area: e.n, solid: true});
  }
  for (const side of sides) {
    if (side === 'errors') continue;
    for (const entry of objectsOf(item, side)) {
      const {object, faint} = entry;
      if (object.m && state.layers.masks) layers.push({mask: object.m, tint: colour(object.c), area: object.a, faint});
      if (hasBoxes && state.layers.boxes) svg.append(rectangle(entry, sides.length > 1));
      if (!faint && state.layers.labels && !isMap && object.b) box.append(tag(item, entry));
    }
  }
  if (layers.length) paint(canvas, item, layers);
  return box;
}
function rectangle({object, side, faint, kind}, over) {
  const [x, y, x2, y2] = object.b;
  return make('svg:rect', {x, y, width: Math.max(0, x2 - x), height: Math.max(0, y2 - y), stroke: colour(object.c),
    class: side + (over ? ' over' : '') + (faint ? ' faint' : ''), 'data-kind': kind});
}
function tag(item, {object, side, kind}) {
  const [x, y, x2] = object.b;
  const text = className(object.c) + (object.s == null || side === 'truth' ? '' : ' ' + percent(object.s));
  const label = make('span', {className: `label ${side}`, text});
  label.style.background = colour(object.c);
  label.style.color = ink(colour(object.c));
  // Near the right border a label ends where its box ends, so that it is not cut off.
  if (x + x2 > 1.3 * item.w) label.style.right = 100 * Math.max(0, 1 - x2 / item.w) + '%';
  else label.style.left = 100 * x / item.w + '%';
  label.style.top = 100 * y / item.h + '%';
  if (y < item.h * .07) label.classList.add('inside');
  if (state.layers.kinds && kind !== RIGHT && kind !== 'covered') {
    const note = make('i', {text: kind === 'ignored' && side === 'truth' ? 'crowd' : kind});
    note.style.background = data.kinds[kind] ? data.kinds[kind].colour : '#5b6470';
    label.append(note);
  }
  return label;
}
function panel(item, sides) {
  const title = isLabel ? '' : sides.join(' and ');
  return make('div', {className: 'panel'}, stage(item, isLabel ? [] : sides),
    ...(title ? [make('span', {className: 'tag', text: title})] : []));
}

/* ---- cards -------------------------------------------------------------------------------- */

function countKinds(item) {
  const counts = new Map();
  for (const e of judge(item).errors) counts.set(e.kind, (counts.get(e.kind) ?? 0) + (isMap ? e.pixels : 1));
  return counts;
}
function chips(item) {
  const box = make('div', {className: 'chips'}), counts = countKinds(item);
  for (const kind of Object.keys(data.kinds)) {
    if (!counts.has(kind)) continue;
    const count = counts.get(kind), share = count / (item.w * item.h);
    const chip = make('span', {className: 'chip', title: data.kinds[kind].text,
      text: isLabel ? kindName(kind) : isMap ? `${(100 * share).toFixed(share < .001 ? 2 : 1)}% ${kindName(kind)}` : `${count} ${kindName(kind)}`});
    chip.style.setProperty('--tint', data.kinds[kind].colour);
    box.append(chip);
  }
  if (!counts.size) box.append(make('span', {className: 'chip right', text: '✓ no errors'}));
  return box;
}
const qualityText = item => `${data.quality} ${judge(item).quality.toFixed(data.task === 'classification' ? 3 : 2)}`;
function answers(item) {
  const {t, p, k, top} = item.l;
  const score = top.length ? (top.find(([c]) => c === p) ?? [p, null])[1] : null;
  return make('dl', {className: 'answers'},
    make('dt', {text: 'truth'}), make('dd', {text: className(t)}),
    make('dt', {text: 'prediction'}),
    make('dd', {className: k === RIGHT ? 'right' : 'wrong', text: className(p) + (score == null ? '' : ' · ' + percent(score))}),
    ...(score == null || k === RIGHT ? [] : [make('dt', {text: 'true class'}), make('dd', {text: percent(item.q)})]));
}
function card(item, position) {
  const pictures = make('div', {className: 'pictures'});
  const open = make('button', {className: 'open', type: 'button', 'aria-label': `Open ${item.n}`, on: {click: () => openViewer(position)}});
  const element = make('article', {className: 'card'}, pictures,
    make('div', {className: 'about'},
      make('div', {className: 'title'}, make('b', {text: item.n, title: item.n}), ...(isLabel ? [] : [make('span', {text: qualityText(item)})])),
      ...(isLabel ? [answers(item)] : []), chips(item)), open);
  for (const sides of isLabel ? [[]] : sidesOf()) {
    const place = make('div', {className: 'panel'});
    place.style.aspectRatio = `${item.w} / ${item.h}`;
    pictures.append(place);
  }
  element.item = item;
  watcher.observe(element);
  return element;
}
/** Pictures are made when their card comes near the window. */
const watcher = new IntersectionObserver(entries => {
  for (const {isIntersecting, target} of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    target.querySelector('.pictures').replaceChildren(...(isLabel ? [[]] : sidesOf()).map(s => panel(target.item, s)));
    target.dataset.drawn = '1';
  }
}, {rootMargin: '400px'});

/* ---- filters ------------------------------------------------------------------------------ */

function facet(list, key, parts, set, redo) {
  const input = make('input', {type: 'checkbox', value: String(key), checked: set.has(key), on: {change: () => {
    if (input.checked) set.add(key); else set.delete(key);
    redo();
  }}});
  const row = make('li', {}, make('label', {title: parts.text ?? parts.name}, input, swatch(parts.colour),
    make('span', {className: 'name', text: parts.name}),
    ...parts.counts.map(() => make('span', {className: 'count'}))));
  list.append(row);
  return row;
}
const kindRows = new Map(), classRows = new Map();
function buildFilters() {
  for (const [kind, about] of Object.entries(data.kinds))
    kindRows.set(kind, facet($('kinds'), kind, {...about, counts: [0]}, state.kinds, refilter));
  kindRows.set(RIGHT, facet($('kinds'), RIGHT, {name: 'No errors', text: 'images without an error', colour: '#16823c', counts: [0]}, state.kinds, refilter));
  for (const c of data.present)
    classRows.set(c, facet($('classes'), c, {name: className(c), colour: colour(c), counts: [0, 0]}, state.classes, refilter));
  $('class-search-field').hidden = data.present.length < 12;
  for (const [key, name, there] of LAYERS) {
    if (!there) continue;
    const input = make('input', {type: 'checkbox', checked: true, value: key, on: {change: () => { state.layers[key] = input.checked; show(); }}});
    $('layers').append(make('label', {}, input, name));
  }
  $('layers').parentElement.hidden = isLabel;
  $('opacity-field').hidden = !hasMasks;
  $('layout-field').hidden = isLabel;
  $('threshold-field').hidden = !data.scored;
  for (const [key, name] of Object.entries(SORTS)) $('sort').append(make('option', {value: key, text: name}));
}
function count() {
  const kinds = new Map(), classes = new Map(), trueObjects = new Map();
  const add = (map, key, n = 1) => map.set(key, (map.get(key) ?? 0) + n);
  for (const item of data.items) {
    if (!named(item)) continue;
    const {errors} = judge(item), ofImage = new Set(), classesOfImage = new Set();
    for (const e of errors) {
      if (meets(state.classes, e.classes)) { if (isMap) ofImage.add(e.kind); else add(kinds, e.kind); }
      if (!state.kinds.size || state.kinds.has(e.kind)) for (const c of new Set(e.classes)) { if (isMap) classesOfImage.add(c); else add(classes, c); }
    }
    for (const k of ofImage) add(kinds, k);
    for (const c of classesOfImage) add(classes, c);
    if (!errors.length && (!state.classes.size || holdsClass(item))) add(kinds, RIGHT);
    if (isLabel) add(trueObjects, item.l.t); else for (const t of item.t) if (t.k !== 'ignored') add(trueObjects, t.c);
  }
  for (const [kind, row] of kindRows) setCounts(row, [kinds.get(kind) ?? 0], state.kinds.has(kind));
  for (const [c, row] of classRows) setCounts(row, [classes.get(c) ?? 0, trueObjects.get(c) ?? 0], state.classes.has(c));
  $('clear-kinds').hidden = !state.kinds.size;
  $('clear-classes').hidden = !state.classes.size;
}
function setCounts(row, counts, checked) {
  row.querySelectorAll('.count').forEach((span, i) => { span.textContent = counts[i].toLocaleString('en'); });
  row.classList.toggle('none', !counts[0]);
  row.querySelector('input').checked = checked;
}

/* ---- the page ----------------------------------------------------------------------------- */

function refilter() {
  state.page = 0;
  count();
  show();
}
function show() {
  chosen = data.items.filter(passes);
  // Of equals the order of the file, which is worst first.
  chosen = chosen.map((item, i) => [item, i]).sort((a, b) => ORDERS[state.sort](a[0], b[0]) || a[1] - b[1]).map(([item]) => item);
  const pages = Math.max(1, Math.ceil(chosen.length / state.size));
  state.page = Math.min(state.page, pages - 1);
  const first = state.page * state.size, part = chosen.slice(first, first + state.size);
  watcher.disconnect();
  const widest = isLabel ? 170 : sidesOf().length * (isMap ? 165 : 205) + 10;
  $('cards').style.setProperty('--card-width', widest + 'px');
  $('cards').replaceChildren(...part.map((item, i) => card(item, first + i)));
  $('empty').hidden = chosen.length > 0;
  $('status').textContent = chosen.length === data.items.length ? `${chosen.length} images`
    : `${chosen.length} of ${data.items.length} images`;
  $('page').textContent = `${state.page + 1} of ${pages}`;
  $('previous-page').disabled = state.page === 0;
  $('next-page').disabled = state.page === pages - 1;
  $('threshold-value').textContent = percent(state.threshold);
  if ($('viewer').open) drawViewer();
}
function turnPage(step) {
  state.page += step;
  show();
  window.scrollTo({top: 0});
}
function reset() {
  state.search = '';
  state.kinds.clear();
  state.classes.clear();
  $('search').value = '';
  refilter();
}

/* ---- the viewer --------------------------------------------------------------------------- */

const view = {position: 0, zoom: 1, x: 0, y: 0};  // x, y: the middle, as parts of the image
const MOST_ZOOM = 40;
function openViewer(position) {
  Object.assign(view, {position, zoom: 1, x: .5, y: .5});
  $('viewer').showModal();
  drawViewer();
}
function step(by) {
  const position = view.position + by;
  if (position < 0 || position >= chosen.length) return;
  Object.assign(view, {position, zoom: 1, x: .5, y: .5});
  drawViewer();
}
function drawViewer() {
  if (!chosen.length) { $('viewer').close(); return; }
  view.position = Math.min(view.position, chosen.length - 1);
  const item = chosen[view.position];
  $('viewer-title').textContent = item.n;
  $('viewer-quality').textContent = `${view.position + 1} of ${chosen.length} · ${item.w} × ${item.h} px · ${qualityText(item)}`;
  $('previous').disabled = view.position === 0;
  $('next').disabled = view.position === chosen.length - 1;
  const panels = (isLabel ? [[]] : sidesOf()).map(sides => panel(item, sides));
  for (const element of panels) makeMovable(element);
  $('viewer-panels').replaceChildren(...panels);
  $('details').replaceChildren(...(isLabel ? labelDetails(item) : isMap ? mapDetails(item) : objectDetails(item)));
  place();
}
/** Size of the image at zoom 1: it fits its panel. */
function fitted(item, element) {
  const scale = Math.min(element.clientWidth / item.w, element.clientHeight / item.h);
  return [item.w * scale, item.h * scale];
}
function place() {
  const item = chosen[view.position];
  for (const element of $('viewer-panels').children) {
    const [width, height] = fitted(item, element).map(v => v * view.zoom);
    const box = element.querySelector('.stage');
    // An image that fits stands in the middle; a larger one is not moved beyond its borders.
    const bound = (middle, size, room) => size <= room ? .5 : Math.min(Math.max(middle, room / 2 / size), 1 - room / 2 / size);
    view.x = bound(view.x, width, element.clientWidth);
    view.y = bound(view.y, height, element.clientHeight);
    box.style.width = width + 'px';
    box.style.height = height + 'px';
    box.style.transform = `translate(${element.clientWidth / 2 - view.x * width}px, ${element.clientHeight / 2 - view.y * height}px)`;
    box.classList.toggle('coarse', width > 3 * item.rw || Math.max(item.w, item.h) <= 128);
  }
  $('zoom-value').textContent = Math.round(view.zoom * 100) + '%';
}
/** Zoom so that what is at a point of the panel stays there. */
function zoomTo(zoom, element, px, py) {
  zoom = Math.min(Math.max(zoom, 1), MOST_ZOOM);
  if (element) {
    const [width, height] = fitted(chosen[view.position], element);
    const dx = px - element.clientWidth / 2, dy = py - element.clientHeight / 2;
    view.x += dx / (width * view.zoom) - dx / (width * zoom);
    view.y += dy / (height * view.zoom) - dy / (height * zoom);
  }
  view.zoom = zoom;
  place();
}
function move(dx, dy) {
  const element = $('viewer-panels').firstElementChild, [width, height] = fitted(chosen[view.position], element);
  view.x -= dx / (width * view.zoom);
  view.y -= dy / (height * view.zoom);
  place();
}
function makeMovable(element) {
  let last = null;
  const at = event => { const r = element.getBoundingClientRect(); return [event.clientX - r.left, event.clientY - r.top]; };
  element.addEventListener('wheel', event => {
    event.preventDefault();
    zoomTo(view.zoom * Math.exp(-event.deltaY * (event.deltaMode ? .06 : .002)), element, ...at(event));
  }, {passive: false});
  element.addEventListener('dblclick', event => zoomTo(view.zoom * 2, element, ...at(event)));
  element.addEventListener('pointerdown', event => {
    last = [event.clientX, event.clientY];
    element.setPointerCapture(event.pointerId);
    element.classList.add('moving');
  });
  element.addEventListener('pointermove', event => {
    if (!last) return;
    move(event.clientX - last[0], event.clientY - last[1]);
    last = [event.clientX, event.clientY];
  });
  for (const name of ['pointerup', 'pointercancel'])
    element.addEventListener(name, () => { last = null; element.classList.remove('moving'); });
}
function focusOn(item, box) {
  const [x, y, x2, y2] = box, size = Math.max((x2 - x) / item.w, (y2 - y) / item.h, .01);
  Object.assign(view, {x: (x + x2) / 2 / item.w, y: (y + y2) / 2 / item.h, zoom: Math.min(Math.max(.5 / size, 1), MOST_ZOOM)});
  place();
}
function highlight(box) {
  for (const old of document.querySelectorAll('rect.focus')) old.remove();
  if (!box) return;
  const [x, y, x2, y2] = box;
  for (const svg of $('viewer-panels').querySelectorAll('svg'))
    svg.append(make('svg:rect', {x, y, width: x2 - x, height: y2 - y, class: 'focus'}));
}
function row(item, box, faint, ...cells) {
  const element = make('tr', faint ? {className: 'faint'} : {}, ...cells);
  if (box) {
    element.tabIndex = 0;
    element.addEventListener('click', () => focusOn(item, box));
    element.addEventListener('keydown', event => { if (event.key === 'Enter') focusOn(item, box); });
    for (const name of ['mouseenter', 'focus']) element.addEventListener(name, () => highlight(box));
    for (const name of ['mouseleave', 'blur']) element.addEventListener(name, () => highlight(null));
  }
  return element;
}
const cell = (text, number) => make('td', {text, className: number ? 'number' : ''});
const classCell = c => make('td', {className: 'class', title: className(c)}, swatch(colour(c)), className(c));
function kindCell(kind) {
  const text = make('span', {text: kindName(kind), title: data.kinds[kind] ? data.kinds[kind].text : ''});
  if (data.kinds[kind]) { text.className = 'what'; text.style.setProperty('--tint', data.kinds[kind].colour); }
  return make('td', {}, text);
}
function table(title, heads, rows) {
  const head = make('tr', {}, ...heads.map(([text, number]) => make('th', {text, className: number ? 'number' : '', scope: 'col'})));
  return [make('h3', {text: `${title} (${rows.length})`}), make('table', {}, make('thead', {}, head), make('tbody', {}, ...rows))];
}
const sizeOf = box => `${Math.round(box[2] - box[0])}×${Math.round(box[3] - box[1])}`;
function objectDetails(item) {
  const predicted = objectsOf(item, 'prediction').sort((a, b) => (b.object.s ?? 1) - (a.object.s ?? 1));
  const scored = item.p.some(p => p.s != null);
  const rows = predicted.map(({object, kind, faint}) => row(item, object.b, faint, classCell(object.c),
    ...(scored ? [cell(object.s == null ? '' : object.s.toFixed(2), true)] : []), kindCell(kind), cell(object.u.toFixed(2), true), cell(sizeOf(object.b), true)));
  const truths = objectsOf(item, 'truth').map(({object, kind, faint}) => row(item, object.b, faint,
    classCell(object.c), kindCell(kind), cell(sizeOf(object.b), true)));
  return [...table('Predictions', [['class'], ...(scored ? [['score', true]] : []), ['verdict'], ['IoU', true], ['pixels', true]], rows),
    ...table('Truth', [['class'], ['verdict'], ['pixels', true]], truths)];
}
function mapDetails(item) {
  const area = item.w * item.h, share = n => (100 * n / area).toFixed(2) + '%';
  const regions = regionsOf(item).map(e => row(item, e.b, false, kindCell(e.k), classCell(e.t),
    e.k === 'nothing' ? cell('nothing') : classCell(e.p), cell(share(e.n), true)));
  const classes = new Map();
  for (const o of item.t) classes.set(o.c, {truth: o, iou: o.u});
  for (const o of item.p) classes.set(o.c, {...classes.get(o.c), guess: o, iou: o.u});
  const rows = [...classes].sort((a, b) => a[1].iou - b[1].iou).map(([c, {truth, guess, iou}]) => row(item,
    (truth ?? guess).b, state.classes.size && !state.classes.has(c), classCell(c), cell(iou.toFixed(2), true), cell(truth ? share(truth.a) : '–', true), cell(guess ? share(guess.a) : '–', true)));
  return [...table('Wrong pixels', [['kind'], ['true'], ['predicted'], ['share', true]], regions),
    ...table('Classes', [['class'], ['IoU', true], ['true', true], ['predicted', true]], rows)];
}
function labelDetails(item) {
  const bars = make('div', {className: 'bars'});
  for (const [c, probability] of item.l.top) {
    const inner = make('div');
    inner.style.width = 100 * probability + '%';
    bars.append(make('span', {text: className(c) + (c === item.l.t ? ' (true)' : '')}), make('div', {className: 'bar-back'}, inner), make('span', {text: percent(probability)}));
  }
  return [answers(item), chips(item), ...(item.l.top.length ? [make('h3', {text: 'Likeliest classes'}), bars] : [])];
}
function viewerKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const far = 80, moves = {ArrowLeft: [far, 0], ArrowRight: [-far, 0], ArrowUp: [0, far], ArrowDown: [0, -far]};
  if (event.shiftKey && moves[event.key]) move(...moves[event.key]);
  else if (event.key === 'ArrowLeft') step(-1);
  else if (event.key === 'ArrowRight') step(1);
  else if (event.key === '+' || event.key === '=') zoomTo(view.zoom * 1.5);
  else if (event.key === '-') zoomTo(view.zoom / 1.5);
  else if (event.key === '0') zoomTo(1);
  else return;
  event.preventDefault();
}

/* ---- start -------------------------------------------------------------------------------- */

function start() {
  $('scope').textContent = data.scope;
  // coco/box_AP among names that all begin with coco/ is box_AP.
  const prefixes = new Set(data.metrics.map(([name]) => name.slice(0, name.indexOf('/') + 1)));
  const short = name => prefixes.size === 1 ? name.slice([...prefixes][0].length) : name;
  const tiles = data.metrics.map(([name, value]) => make('div', {className: 'metric', title: name}, make('b', {text: value}), make('span', {text: short(name)})));
  $('metrics').append(make('div', {className: 'tiles'}, ...tiles.slice(0, 8)));
  if (tiles.length > 8) $('metrics').append(make('details', {}, make('summary', {text: `${tiles.length - 8} more metrics`}),
    make('div', {className: 'tiles'}, ...tiles.slice(8))));
  $('metrics').hidden = !data.metrics.length;
  buildFilters();
  $('threshold').min = data.least;
  $('threshold').value = state.threshold;
  $('opacity').value = state.opacity;
  const later = call => { let timer = 0; return () => { clearTimeout(timer); timer = setTimeout(call, 120); }; };
  const recount = later(refilter), redraw = later(show);
  $('search').addEventListener('input', () => { state.search = $('search').value.toLowerCase(); recount(); });
  $('threshold').addEventListener('input', () => {
    state.threshold = Number($('threshold').value);
    $('threshold-value').textContent = percent(state.threshold);
    recount();
  });
  $('opacity').addEventListener('input', () => { state.opacity = Number($('opacity').value); redraw(); });
  $('sort').addEventListener('change', () => { state.sort = $('sort').value; state.page = 0; show(); });
  $('layout').addEventListener('change', () => { state.over = $('layout').value === 'over'; show(); });
  $('page-size').addEventListener('change', () => { state.size = Number($('page-size').value); state.page = 0; show(); });
  $('class-search').addEventListener('input', () => {
    const wanted = $('class-search').value.toLowerCase();
    for (const [c, element] of classRows) element.hidden = !className(c).toLowerCase().includes(wanted);
  });
  $('previous-page').addEventListener('click', () => turnPage(-1));
  $('next-page').addEventListener('click', () => turnPage(1));
  $('clear-kinds').addEventListener('click', () => { state.kinds.clear(); refilter(); });
  $('clear-classes').addEventListener('click', () => { state.classes.clear(); refilter(); });
  $('reset').addEventListener('click', reset);
  $('theme').addEventListener('click', () => {
    const isDark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    document.documentElement.dataset.theme = isDark ? 'light' : 'dark';
  });
  const closeFilters = closed => {
    $('sidebar').classList.toggle('closed', closed);
    $('filters-toggle').setAttribute('aria-expanded', String(!closed));
  };
  $('filters-toggle').addEventListener('click', () => closeFilters(!$('sidebar').classList.contains('closed')));
  closeFilters(matchMedia('(max-width: 800px)').matches);
  $('previous').addEventListener('click', () => step(-1));
  $('next').addEventListener('click', () => step(1));
  $('zoom-in').addEventListener('click', () => zoomTo(view.zoom * 1.5));
  $('zoom-out').addEventListener('click', () => zoomTo(view.zoom / 1.5));
  $('zoom-fit').addEventListener('click', () => zoomTo(1));
  $('close').addEventListener('click', () => $('viewer').close());
  $('viewer').addEventListener('keydown', viewerKey);
  window.addEventListener('resize', () => { if ($('viewer').open) place(); });
  count();
  show();
}
start();
