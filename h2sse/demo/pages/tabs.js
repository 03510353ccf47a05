// Opens EventSources against two origins and draws each as a tile.
//
// A tile is waiting (the browser holds its request back, or has lost the stream), open, or moving
// (events come).  The server's `hello` says which connection a stream is on.

const MOST = 300; // tiles on a side
const BROWSER_CONNECTIONS = 6; // to one origin over HTTP/1.1, in every browser there is
const BROWSER_STREAMS = 256; // on one connection, in Chromium, whatever the server allows
const QUIET_MS = 2000; // a tile without an event for so long no longer moves
const SETTLED_MS = 1000; // a side where no tab opened for so long is stuck

// 4, 5, 6, 9 as "4–6, 9".
function ranges(numbers) {
  const runs = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    const run = runs.at(-1);
    if (run && number === run[1] + 1) run[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? first : `${first}–${last}`)).join(", ");
}

const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

class Tab {
  constructor(side, number) {
    this.side = side;
    this.number = number;
    this.hello = null;
    this.events = 0;
    this.lastEvent = 0;
    this.element = document.createElement("li");
    this.element.className = "tile";
    this.is("waiting");
    this.source = new EventSource(`${side.origin}/tabs/events`);
    this.source.onopen = () => this.is("open");
    this.source.onerror = () => this.dropped();
    this.source.addEventListener("hello", (event) => this.greeted(JSON.parse(event.data)));
    this.source.addEventListener("tick", () => this.moved());
    this.source.addEventListener("flash", () => this.flashed());
  }

  get open() {
    return this.state !== "waiting";
  }

  is(state) {
    if (state === this.state) return;
    if (state !== "moving") this.side.changed = performance.now();
    this.state = state;
    this.element.dataset.state = state;
    this.side.render();
  }

  greeted(hello) {
    this.hello = hello;
    this.element.textContent = hello.connection;
    this.counted();
  }

  moved() {
    this.is("moving");
    // Two names for one animation: changing the name starts it again.
    this.element.dataset.beat = this.element.dataset.beat === "a" ? "b" : "a";
    this.counted();
  }

  flashed() {
    this.side.reached += 1;
    this.side.reachedAt = performance.now();
    this.element.dataset.flash = this.element.dataset.flash === "a" ? "b" : "a";
    this.counted();
  }

  counted() {
    this.events += 1;
    this.side.events += 1;
    this.lastEvent = performance.now();
    this.side.render();
  }

  dropped() {
    this.side.failed = true;
    this.hello = null;
    this.element.textContent = "";
    this.is("waiting");
  }

  // Called every second: what no event can tell.
  settle(now) {
    if (this.state === "moving" && now - this.lastEvent > QUIET_MS) this.is("open");
    this.element.title = this.open && this.hello
      ? `Tab ${this.number}: ${this.hello.protocol}, connection ${this.hello.connection}, ` +
        count(this.events, "event")
      : `Tab ${this.number}: ${this.state}`;
  }

  close() {
    this.source.close();
    this.element.remove();
  }
}

class Side {
  constructor(root) {
    root.append(document.querySelector("#side").content.cloneNode(true));
    this.root = root;
    // "*" stands for the name by which the browser came here.
    this.origin = root.dataset.origin.replace("*", location.hostname);
    this.http2 = root.dataset.protocol === "h2";
    this.tabs = [];
    this.opened = 0; // in all, so that each tab has a number of its own
    this.events = 0;
    this.eventsBefore = 0;
    this.everOpen = false;
    this.failed = false;
    this.changed = 0;
    this.reached = 0;
    this.reachedAt = 0;
    this.scheduled = false;
    root.querySelector("h2").textContent = this.http2 ? "HTTP/2" : "HTTP/1.1";
    root.querySelector("a").href = this.origin;
    for (const each of root.querySelectorAll(".origin")) each.textContent = this.origin;
    this.meter = root.querySelector(".meter");
    const slots = this.http2 ? 1 : BROWSER_CONNECTIONS;
    for (let i = 0; i < slots; i += 1) this.meter.append(document.createElement("span"));
    this.list = root.querySelector(".tiles");
    this.draw();
  }

  open(number) {
    for (let i = Math.min(number, MOST - this.tabs.length); i > 0; i -= 1) {
      this.opened += 1;
      const tab = new Tab(this, this.opened);
      this.tabs.push(tab);
      this.list.append(tab.element);
    }
    this.render();
  }

  // Open ones go first: their place is what a waiting one needs.
  close(number) {
    const last = [...this.tabs.filter((tab) => !tab.open), ...this.tabs.filter((tab) => tab.open)];
    for (const tab of last.slice(-number)) tab.close();
    this.tabs = this.tabs.filter((tab) => tab.element.isConnected);
    this.changed = performance.now();
    this.render();
  }

  settle() {
    const now = performance.now();
    for (const tab of this.tabs) tab.settle(now);
    this.set("rate", this.events - this.eventsBefore);
    this.eventsBefore = this.events;
    this.draw();
  }

  // Hundreds of events come at once; the figures are drawn ten times a second.
  render() {
    if (this.scheduled) return;
    this.scheduled = true;
    setTimeout(() => {
      this.scheduled = false;
      this.draw();
    }, 100);
  }

  draw() {
    const open = this.tabs.filter((tab) => tab.open);
    const hellos = open.map((tab) => tab.hello).filter(Boolean);
    const connections = [...new Set(hellos.map((hello) => hello.connection))];
    const limit = hellos[0]?.limit;
    if (open.length) {
      this.everOpen = true;
      this.failed = false;
    }
    const waiting = this.tabs.length - open.length;
    const stuck = waiting > 0 && performance.now() - this.changed > SETTLED_MS;
    const [full, verdict] = this.http2
      ? sayHttp2(open.length, waiting, stuck, connections, limit)
      : sayHttp1(open.length, waiting, stuck);
    const lost = this.failed && waiting > 0;

    this.set("open", open.length);
    this.set("waiting", waiting);
    this.set("events", this.events);
    this.say("protocol", hellos[0]?.protocol);
    this.say("connections", ranges(connections));
    this.say("limit", hellos.length && (limit ? count(limit, "stream") : "1 stream each"));
    this.list.dataset.size =
      this.tabs.length <= 30 ? "large" : this.tabs.length <= 126 ? "medium" : "small";
    this.root.classList.toggle("full", full && !lost);
    this.root.querySelector(".problem").hidden = !lost || this.everOpen;
    const sentence = lost ? "The server does not answer. The browser keeps trying." : verdict;
    const line = this.root.querySelector(".verdict");
    if (line.textContent !== sentence) line.textContent = sentence; // it is read aloud
    this.fill(open.length, connections, limit);
  }

  fill(open, connections, limit) {
    if (this.http2) {
      const share = limit ? Math.min(open / limit, 1) : 0;
      this.meter.firstChild.style.setProperty("--share", share);
    } else {
      [...this.meter.children].forEach((slot, i) => {
        slot.style.setProperty("--share", i < connections.length ? 1 : 0);
      });
    }
  }

  set(name, value) {
    this.root.querySelector(`[data-count=${name}]`).textContent = value;
  }

  say(name, value) {
    this.root.querySelector(`[data-wire=${name}]`).textContent = value || "–";
  }
}

// Both say whether the next tab would hang, and why, in a sentence.

function sayHttp1(open, waiting, stuck) {
  const all = BROWSER_CONNECTIONS;
  const next = `tab ${open + 1} waits, and so does every other request to it.`;
  if (open >= all) {
    return [true, `The browser has ${all} connections to this origin, all taken by event streams: ${next}`];
  }
  if (stuck) {
    return [true, `The browser has ${all} connections to this origin. This page holds ${open}, other tabs the rest: ${next}`];
  }
  if (waiting) return [false, "Opening."];
  if (!open) {
    return [false, `Each stream takes a connection of its own, and the browser has ${all} for an origin.`];
  }
  return [false, `${open} of the browser's ${all} connections to this origin ${open === 1 ? "is" : "are"} taken.`];
}

function sayHttp2(open, waiting, stuck, connections, limit) {
  const on = connections.length === 1 ? `connection ${connections[0]}` : count(connections.length, "connection");
  const next = `tab ${open + 1} waits, and so does every other request on it.`;
  if (limit && open >= limit) {
    return [true, `All ${limit} streams that the server allows on ${on} are taken: ${next}`];
  }
  if (open >= BROWSER_STREAMS) {
    return [true, `The browser opens ${open} streams on a connection at the most, though the server allows ${limit}: ${next}`];
  }
  if (stuck) {
    const allowed = limit ? `${limit} streams` : "so many streams";
    return [true, `The server allows ${allowed} on a connection. This page holds ${open}, other tabs the rest: ${next}`];
  }
  if (waiting) return [false, "Opening."];
  if (!open || !limit) {
    return [false, "All streams share one connection, as many as the server allows."];
  }
  return [false, `${count(open, "tab")} on ${on}, and the server allows ${limit - open} more.`];
}

const sides = [...document.querySelectorAll(".side")].map((root) => new Side(root));
setInterval(() => sides.forEach((side) => side.settle()), 1000);

for (const button of document.querySelectorAll("[data-open]")) {
  button.onclick = () => sides.forEach((side) => side.open(Number(button.dataset.open)));
}
for (const button of document.querySelectorAll("[data-close]")) {
  button.onclick = () => sides.forEach((side) => side.close(Number(button.dataset.close)));
}

document.querySelector("#publish").onclick = async () => {
  const published = document.querySelector("#published");
  const start = performance.now();
  for (const side of sides) side.reached = 0;
  try {
    // Without credentials the browser takes a connection of its own, so that this is sent even
    // when event streams have taken all of the other.
    const response = await fetch("/tabs/publish", { method: "POST", credentials: "omit" });
    if (!response.ok) throw new Error(await response.text());
  } catch (error) {
    published.textContent = `Not published: ${error.message}`;
    return;
  }
  // The answer may overtake the events.
  setTimeout(() => {
    published.textContent = sides.map((side) => reached(side, start)).join(" · ");
  }, 250);
};

function reached(side, start) {
  const name = side.http2 ? "HTTP/2" : "HTTP/1.1";
  const time = side.reached ? ` in ${Math.round(side.reachedAt - start)} ms` : "";
  return `${name}: ${side.reached} of ${side.tabs.length}${time}`;
}
