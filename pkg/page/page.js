// The page asks the daemon each second how it is, and draws what changed.
'use strict';

const every = 1000; // milliseconds between two questions
const patience = 5000; // for an answer
const mapMost = 40; // hosts that are drawn with their tunnels; more are tiles
const rowsMost = 200; // hosts in the table; a search finds the others

const $ = id => document.getElementById(id);
const bad = ['unreachable', 'gone', 'small-only', 'missing', 'unusable'];
const order = [...bad, 'leaving', 'used', 'reachable'];
const meaning = {
  used: 'packets are sent to it; whether they arrive was not tried',
  reachable: 'packets arrive',
  unreachable: 'packets do not arrive',
  'small-only': 'small packets arrive, large ones do not',
  gone: 'the host itself does not answer',
  missing: 'what leads to it is not in place here',
  unusable: 'its lease cannot be used',
  leaving: 'its lease is gone a moment ago',
};

// element makes an element with attributes, and children that are elements or texts.
function element(tag, attributes = {}, ...children) {
  const e = /^(svg|g|line|circle|text|title)$/.test(tag) ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

function age(from, to) {
  const s = Math.max(0, Math.floor((new Date(to) - new Date(from)) / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

// changed reports whether a part of the page is to be drawn anew.
const drawn = {};
function changed(part, data) {
  const text = JSON.stringify(data);
  if (drawn[part] === text) return false;
  drawn[part] = text;
  return true;
}

function drawStatus(s) {
  const health = s.waiting ? `waiting: ${s.waiting}` : s.health;
  if (changed('health', [health, s.host, s.version])) {
    $('name').textContent = s.host;
    $('version').textContent = `flanneld ${s.version}`;
    $('health').textContent = health;
    $('health').className = `health ${s.health}`;
    document.title = `${s.host}: ${s.health}`;
  }
  if (changed('problems', s.problems)) {
    $('problems').hidden = s.problems.length === 0;
    $('problem-list').replaceChildren(...s.problems.map(p => {
      const li = element('li', {}, `${p.subject ? p.subject + ': ' : ''}${p.problem}`);
      if (p.remedy) li.append('; ', element('code', {}, p.remedy));
      return li;
    }));
  }
  const here = [];
  for (const f of s.network || []) {
    here.push([`Subnet, ${f.family}`, `${f.subnet} of ${f.network}`]);
    here.push(['Interface', `${f.interface}, ${f.address}${f.publicIP !== f.address ? `, reached by ${f.publicIP}` : ''}, MTU ${f.interfaceMTU}`]);
  }
  if (s.backend) here.push(['Backend', `${[s.backend, ...(s.network || []).map(f => f.device).filter(Boolean)].join(', ')}${s.mtu ? `, MTU of pods ${s.mtu}` : ''}`]);
  here.push(['Store', `${s.store.name}${s.store.endpoints ? ' at ' + s.store.endpoints.join(', ') : ''}`]);
  if (s.store.since) here.push(['', `${s.store.down ? 'cannot be used' : 'in use'} for ${age(s.store.since, s.at)}`]);
  if (s.lease) here.push(['Lease', s.lease.expires ? `expires in ${age(s.at, s.lease.expires)}, if it is not renewed` : 'does not expire']);
  here.push(['Running for', age(s.started, s.at)]);
  if (changed('here', here)) $('here').replaceChildren(...here.flatMap(([dt, dd]) => [element('dt', {}, dt), element('dd', {}, dd)]));
  if (changed('objects', s.objects)) {
    $('objects').replaceChildren(...(s.objects || []).map(k => element('tr', {class: k.missing ? 'missing' : ''},
      element('th', {scope: 'row'}, k.kind), ...[k.wanted, k.missing, k.repairs].map(n => element('td', {}, String(n))))));
  }
  if (changed('recent', s.recent)) {
    $('recent').replaceChildren(...[...(s.recent || [])].reverse().map(e => element('li', {},
      element('time', {datetime: e.at}, new Date(e.at).toLocaleTimeString()), e.text)));
  }
}

let self = null; // the status
let hosts = []; // the others
let only = ''; // a state
function matching() {
  const words = $('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  return hosts.filter(h => {
    if (only && h.state !== only) return false;
    const text = `${h.subnet} ${h.publicIP || ''} ${h.state} ${h.reason || ''}`.toLowerCase();
    return words.every(w => text.includes(w));
  });
}

function drawHosts() {
  const counts = {};
  for (const h of hosts) counts[h.state] = (counts[h.state] || 0) + 1;
  const states = order.filter(s => counts[s] || s === only);
  if (changed('states', [counts, only])) {
    const focused = document.activeElement && document.activeElement.dataset.state;
    $('states').replaceChildren(...['', ...states].map(s => {
      const b = element('button', {type: 'button', class: s, 'aria-pressed': String(s === only), 'data-state': s, title: meaning[s] || ''},
        ...(s ? [element('span', {class: 'dot', 'aria-hidden': 'true'})] : []), s ? `${s} ${counts[s] || 0}` : `all ${hosts.length}`);
      b.addEventListener('click', () => { only = s; drawHosts(); });
      return b;
    }));
    if (focused !== undefined && focused !== null) {
      for (const b of $('states').children) if (b.dataset.state === focused) b.focus();
    }
  }
  const found = matching();
  found.sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state)); // stable: by subnet within
  const text = found.length === hosts.length ? `${hosts.length} other hosts` : `${found.length} of ${hosts.length} other hosts`;
  if (changed('found', text)) $('found').textContent = text;
  const names = (self && self.network || []).map(f => f.subnet).join(' ');
  if (!changed('found hosts', [found, names])) return;
  $('map').replaceChildren(...(found.length <= mapMost ? [star(found)] : tiles(found)));
  $('rows').replaceChildren(...found.slice(0, rowsMost).map(h => {
    const why = element('td', {}, h.reason || '');
    if (h.remedy) why.append(h.reason ? '; ' : '', element('code', {}, h.remedy));
    return element('tr', {class: h.state}, element('th', {scope: 'row'}, h.subnet), element('td', {}, h.publicIP || ''),
      element('td', {title: meaning[h.state] || ''}, element('span', {class: 'dot', 'aria-hidden': 'true'}), h.state),
      element('td', {}, h.rtt ? `${(h.rtt * 1000).toFixed(2)} ms` : ''), why);
  }));
  $('more').textContent = found.length > rowsMost ? `and ${found.length - rowsMost} more: search for them` : '';
}

// star draws this host with a tunnel to each of the others.
function star(found) {
  const width = 900, height = found.length > 12 ? 520 : 380, x = width / 2, y = height / 2;
  const svg = element('svg', {viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `this host and ${found.length} others; the table below has the same`});
  const nodes = [];
  found.forEach((h, i) => {
    const turn = 2 * Math.PI * i / found.length - Math.PI / 2;
    const far = found.length > 14 && i % 2 ? .72 : 1; // labels in two rings
    const px = x + Math.cos(turn) * (width / 2 - 90) * far, py = y + Math.sin(turn) * (height / 2 - 48) * far;
    const label = py < y - 20 ? -28 : 24; // away from the tunnel
    nodes.push(element('g', {class: h.state, 'data-subnet': h.subnet}, element('title', {}, `${h.subnet} ${h.publicIP || ''}: ${h.state}`),
      element('line', {x1: x, y1: y, x2: px, y2: py}), element('circle', {cx: px, cy: py, r: 9}),
      element('text', {x: px, y: py + label}, h.subnet), element('text', {x: px, y: py + label + 14}, h.publicIP || '')));
  });
  svg.append(...nodes, element('g', {class: 'self'}, element('circle', {cx: x, cy: y, r: 14}),
    element('text', {x, y: y + 32}, self && self.host || ''), element('text', {x, y: y + 46}, (self && self.network || []).map(f => f.subnet).join(' '))));
  return svg;
}

// tiles draws a small square for each host, by state.
function tiles(found) {
  const parts = [];
  for (const s of order) {
    const of = found.filter(h => h.state === s);
    if (of.length === 0) continue;
    parts.push(element('h3', {}, `${s}: ${of.length}`), element('div', {class: 'tiles', role: 'img', 'aria-label': `${of.length} hosts that are ${s}`},
      ...of.map(h => element('div', {class: `tile ${h.state}`, title: `${h.subnet} ${h.publicIP || ''}${h.reason ? ': ' + h.reason : ''}`}))));
  }
  return parts;
}

async function ask(path, etag) {
  const answer = await fetch(path, {signal: AbortSignal.timeout(patience), cache: 'no-store', headers: etag ? {'If-None-Match': etag} : {}});
  if (answer.status === 304) return null;
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return {tag: answer.headers.get('ETag'), data: await answer.json()};
}

let tag = '';
async function look() {
  try {
    self = (await ask('status.json')).data;
    drawStatus(self);
    const peers = await ask('peers.json', tag);
    if (peers) {
      tag = peers.tag;
      hosts = peers.data || [];
    }
    drawHosts();
  } catch (err) {
    if (changed('health', String(err))) {
      $('health').textContent = 'the daemon does not answer; what is shown is old';
      $('health').className = 'health away';
    }
  }
  setTimeout(look, document.hidden ? 10 * every : every);
}

$('search').addEventListener('input', drawHosts);
document.addEventListener('keyup', e => {
  const typing = document.activeElement === $('search');
  if (e.key === '/' && !typing) {
    $('search').focus();
  } else if (e.key === 'Escape' && typing) {
    $('search').value = '';
    drawHosts();
  }
});
look();
