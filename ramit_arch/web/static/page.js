// Sends a picture, follows its restoration, and shows before and after under one divider.

const element = id => document.getElementById(id);
const [form, file, drop, network, error, work, progress, result, scroller, stage, split] =
  ['form', 'file', 'drop', 'network', 'error', 'work', 'progress', 'result', 'scroller', 'stage', 'split']
    .map(element);

let about = {networks: [], max_bytes: Infinity, max_pixels: Infinity};
let picture = null; // {blob, name}
let running = null; // {controller, id}
let shown = null; // {width, height, urls}
let zoom = 0; // CSS pixels for a pixel of the result; 0 fits it into the page

class Failure extends Error {} // its message is for the visitor

// ------------------------------------------------------------------------------------------------------- messages

const megabytes = bytes =>
  bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} KB` : `${Math.round(bytes / 1e5) / 10} MB`;

function fail(text) {
  error.textContent = text;
}

function say(text, value = null, aloud = true) {
  element('status').textContent = text;
  if (value === null) progress.removeAttribute('value');
  else progress.value = value;
  if (aloud && element('live').textContent !== text) element('live').textContent = text;
}

// -------------------------------------------------------------------------------------------------------- requests

async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (cause) {
    if (cause.name === 'AbortError') throw cause;
    throw new Failure('The server cannot be reached.');
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Failure(body.error || `The server answered ${answer.status}.`);
}

const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

async function follow(id, signal) {
  let lost = 0;
  let quarters = 0;
  for (;;) {
    let job;
    try {
      job = await (await request(`jobs/${id}`, {signal})).json();
      lost = 0;
    } catch (cause) {
      if (cause.message !== 'The server cannot be reached.' || ++lost > 5) throw cause;
      await pause(2000);
      continue;
    }
    if (job.state === 'done') return job;
    if (job.state === 'failed') throw new Failure(job.error);
    if (job.state === 'waiting') {
      say(`Waiting: ${job.ahead} ${job.ahead === 1 ? 'picture' : 'pictures'} before yours.`);
    } else if (job.progress) {
      const percent = Math.floor(job.progress * 100);
      say(`Restoring: ${percent} %`, job.progress, Math.floor(percent / 25) > quarters);
      quarters = Math.floor(percent / 25);
    } else {
      say('Restoring …');
    }
    await pause(400);
  }
}

async function restore() {
  leave();
  fail('');
  const chosen = about.networks[network.value];
  if (!picture || !chosen) return fail('The server does not answer; reload this page.');
  const {blob, name} = picture;
  const {label, suffix} = chosen;
  const job = running = {controller: new AbortController(), id: null};
  const {signal} = job.controller;
  work.hidden = false;
  element('restore').disabled = true;
  say('Sending …');
  try {
    const headers = {'Content-Type': 'application/octet-stream'};
    const sent = await request(`jobs?network=${network.value}`, {method: 'POST', body: blob, headers, signal});
    job.id = (await sent.json()).id;
    const status = await follow(job.id, signal);
    say('Receiving …', null, false);
    const [restored, before, after] = await Promise.all(['result', 'before', 'after'].map(async each =>
      status.files.includes(each) ? (await request(`jobs/${job.id}/${each}`, {signal})).blob() : null));
    await show({restored, before, after: after || restored, status, label, sent: blob.size,
      name: name.replace(/\.[^.]*$/, '') + suffix + '.png'});
    element('live').textContent = `Done in ${status.seconds.toFixed(1)} seconds.`;
  } catch (cause) {
    if (cause.name === 'AbortError') element('live').textContent = 'Cancelled.';
    else if (cause instanceof Failure) fail(`${name}: ${cause.message}`);
    else throw cause;
  } finally {
    forget(job);
    if (running === job) {
      running = null;
      const focused = work.contains(document.activeElement);
      work.hidden = true;
      element('restore').disabled = !picture;
      if (focused) (result.hidden ? element('restore') : element('heading')).focus();
    }
  }
}

function forget(job) {
  if (job.id) fetch(`jobs/${job.id}`, {method: 'DELETE', keepalive: true}).catch(() => {});
  job.id = null;
}

function leave() {
  if (!running) return;
  running.controller.abort();
  forget(running);
}

// --------------------------------------------------------------------------------------------------------- result

async function show({restored, before, after, status, label, sent, name}) {
  for (const url of shown ? shown.urls : []) URL.revokeObjectURL(url);
  const urls = [restored, before, after].map(blob => URL.createObjectURL(blob));
  const [width, height] = status.sizes.after;
  shown = {width, height, urls};
  element('before').src = urls[1];
  element('after').src = urls[2];
  element('download').href = urls[0];
  element('download').download = name;
  element('download').textContent = `Download ${megabytes(restored.size)}`;
  facts({
    'Before': `${status.sizes.before.join(' × ')} pixels, ${megabytes(sent)}`,
    'After': `${width} × ${height} pixels, ${megabytes(restored.size)}, ${name}`,
    'Time': `${status.seconds.toFixed(1)} s`,
    'Network': label,
  });
  const notes = [...status.notes];
  if (status.files.includes('after')) notes.push('shown reduced; the download has all pixels');
  result.hidden = false;
  split.value = 50;
  setZoom(0);
  try {
    await Promise.all([element('before').decode(), element('after').decode()]);
  } catch {
    notes.push('this browser cannot show it; the download is complete');
  }
  element('notes').replaceChildren(...notes.map(note => {
    const item = document.createElement('li');
    item.textContent = note;
    return item;
  }));
}

function facts(values) {
  element('facts').replaceChildren(...Object.entries(values).flatMap(([term, value]) => {
    const [name, text] = [document.createElement('dt'), document.createElement('dd')];
    name.textContent = term;
    text.textContent = value;
    return [name, text];
  }));
}

function setZoom(factor) {
  zoom = factor;
  for (const button of element('zoom').children) {
    button.setAttribute('aria-pressed', String(Number(button.dataset.zoom) === factor));
  }
  layOut();
}

function layOut() {
  if (!shown) return;
  const {width, height} = shown;
  const room = {width: result.clientWidth, height: Math.max(240, innerHeight * 0.7)};
  const factor = zoom || Math.min(room.width / width, room.height / height, 4);
  const middle = [scroller.scrollLeft + scroller.clientWidth / 2, scroller.scrollTop + scroller.clientHeight / 2]
    .map((at, axis) => at / ([stage.offsetWidth, stage.offsetHeight][axis] || 1));
  stage.style.width = `${width * factor}px`;
  stage.style.height = `${height * factor}px`;
  scroller.style.width = `${Math.min(width * factor, room.width)}px`;
  split.parentElement.style.width = scroller.style.width;
  scroller.style.height = `${Math.min(height * factor, room.height)}px`;
  scroller.scrollLeft = middle[0] * width * factor - scroller.clientWidth / 2;
  scroller.scrollTop = middle[1] * height * factor - scroller.clientHeight / 2;
  if (scrolls()) scroller.tabIndex = 0;
  else scroller.removeAttribute('tabindex');
  divide();
}

const scrolls = () => stage.offsetWidth > scroller.clientWidth + 1 || stage.offsetHeight > scroller.clientHeight + 1;

function divide() {
  const at = split.value / 100 * scroller.clientWidth;
  const inside = scroller.scrollLeft + at;
  element('divider').style.left = `${at}px`;
  element('before').style.clipPath = `inset(0 ${Math.max(0, stage.offsetWidth - inside)}px 0 0)`;
  element('after').style.clipPath = `inset(0 0 0 ${inside}px)`;
  split.setAttribute('aria-valuetext', `${split.value} % before, ${100 - split.value} % after`);
}

function drag(event) {
  const box = scroller.getBoundingClientRect();
  split.value = (event.clientX - box.left) / scroller.clientWidth * 100;
  divide();
}

function startDrag(event) {
  if (event.button) return;
  const target = event.currentTarget;
  const divides = target !== scroller || !scrolls();
  if (!divides && event.pointerType !== 'mouse') return; // the browser scrolls
  event.preventDefault();
  target.setPointerCapture(event.pointerId);
  const move = moved => {
    if (divides) return drag(moved);
    scroller.scrollLeft -= moved.movementX;
    scroller.scrollTop -= moved.movementY;
  };
  if (divides) drag(event);
  target.addEventListener('pointermove', move);
  for (const end of ['pointerup', 'pointercancel']) {
    target.addEventListener(end, () => target.removeEventListener('pointermove', move), {once: true});
  }
}

// --------------------------------------------------------------------------------------------------------- choosing

function choose(blob, name) {
  fail('');
  drop.querySelector('strong').textContent = `${name}, ${megabytes(blob.size)}`;
  drop.querySelector('span').textContent = 'Choose, drop or paste another';
  picture = null;
  if (blob.size > about.max_bytes) {
    fail(`${name}: the file is too large; at most ${megabytes(about.max_bytes)} are accepted`);
  } else {
    picture = {blob, name};
  }
  element('restore').disabled = !picture || Boolean(running);
}

async function chooseSample(path) {
  try {
    choose(await (await request(path)).blob(), path.split('/').pop());
    element('restore').focus();
  } catch (cause) {
    fail(cause.message);
  }
}

function chooseFirst(files) {
  if (files.length) choose(files[0], files[0].name);
  if (files.length > 1) fail('One picture at a time; the first is taken.');
}

form.addEventListener('submit', event => {
  event.preventDefault();
  if (picture && !running) restore();
});
file.addEventListener('change', () => {
  chooseFirst(file.files);
  file.value = ''; // so that choosing the same file again is a change
});
for (const button of document.querySelectorAll('[data-sample]')) {
  button.addEventListener('click', () => chooseSample(button.dataset.sample));
}
addEventListener('dragover', event => event.preventDefault());
addEventListener('dragenter', () => drop.classList.add('over'));
addEventListener('dragleave', event => event.relatedTarget || drop.classList.remove('over'));
addEventListener('drop', event => {
  event.preventDefault();
  drop.classList.remove('over');
  chooseFirst(event.dataTransfer.files);
});
addEventListener('paste', event => chooseFirst(event.clipboardData.files));
element('cancel').addEventListener('click', leave);
element('zoom').addEventListener('click', event => {
  if (event.target.dataset.zoom) setZoom(Number(event.target.dataset.zoom));
});
split.addEventListener('input', divide);
scroller.addEventListener('scroll', divide);
scroller.addEventListener('pointerdown', startDrag);
element('divider').addEventListener('pointerdown', startDrag);
addEventListener('resize', layOut);
addEventListener('pagehide', leave);

try {
  about = await (await request('about')).json();
  network.replaceChildren(...about.networks.map(({label}, number) => new Option(label, number)));
  element('limits').textContent =
    `at most ${megabytes(about.max_bytes)} and ${about.max_pixels / 1e6} megapixels`;
} catch (cause) {
  fail(cause.message);
}
