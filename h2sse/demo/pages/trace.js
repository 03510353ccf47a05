// Shows the frames that the server tells of, beside the EventSources that cause them.
//
// Frames of one write that carry the same event are one row, with a chip for each stream.

const MOST_TABS = 100;
const MOST_ROWS = 250; // older ones leave
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

const list = document.querySelector("#rows");
let paused = false;
let frames = 0; // shown
let own = 0; // that carry the trace
let more = 0; // not shown, for there were too many
let together = 0; // tabs whose frames left in the last write of several

// Neighbours differ: 137.5 degrees is the golden angle.
function paint(element, connection, stream) {
  const http1 = protocols.get(connection) === "http/1.1";
  const number = http1 ? connection : Math.floor(stream / 2);
  element.style.setProperty("--hue", Math.round(number * 137.5) % 360);
  element.textContent = http1 ? `c${connection}` : `s${stream}`;
}

// -- the tabs

const tabs = [];
const protocols = new Map(); // of each connection

function openTab() {
  const tab = { element: document.createElement("li"), connection: 0 };
  tab.element.className = "tile";
  tab.element.dataset.state = "waiting";
  tab.source = new EventSource("/tabs/events");
  tab.source.onerror = () => {
    tab.connection = 0;
    tab.element.dataset.state = "waiting";
    summarise();
  };
  tab.source.addEventListener("hello", (event) => {
    const hello = JSON.parse(event.data);
    tab.connection = hello.connection;
    protocols.set(hello.connection, hello.protocol);
    paint(tab.element, hello.connection, hello.stream);
    tab.element.dataset.state = "streaming";
    tab.element.title = `connection ${hello.connection}, stream ${hello.stream}`;
    summarise();
  });
  for (const type of ["tick", "flash"]) {
    tab.source.addEventListener(type, () => {
      tab.element.dataset[type] = tab.element.dataset[type] === "a" ? "b" : "a";
    });
  }
  document.querySelector("#tiles").append(tab.element);
  tabs.push(tab);
}

function closeTab() {
  const tab = tabs.pop();
  tab.source.close();
  tab.element.remove();
}

function summarise() {
  const open = tabs.filter((tab) => tab.connection);
  const connections = new Set(open.map((tab) => tab.connection));
  const waiting = tabs.length - open.length;
  let text = "No tab is open yet.";
  if (tabs.length) {
    text = `${count(open.length, "tab")} on ${count(connections.size, "connection")}`;
    if (waiting) text += `, ${waiting} waiting for one`;
    text += together > 1 ? `. The last event to them left in one write of ${count(together, "frame")}.` : ".";
  }
  const line = document.querySelector("#verdict");
  if (line.textContent !== text) line.textContent = text; // it is read aloud
}

for (const button of document.querySelectorAll("[data-open]")) {
  button.onclick = () => {
    for (let i = Number(button.dataset.open); i > 0 && tabs.length < MOST_TABS; i -= 1) openTab();
    summarise();
  };
}
for (const button of document.querySelectorAll("[data-close]")) {
  button.onclick = () => {
    for (let i = Number(button.dataset.close); i > 0 && tabs.length; i -= 1) closeTab();
    together = 0;
    summarise();
  };
}
document.querySelector("#publish").onclick = () => post("/tabs/publish");
document.querySelector("#pause").onclick = (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", paused);
  event.target.textContent = paused ? "Go on" : "Pause";
};

// -- the frames

const key = (row) => JSON.stringify([row.connection, row.time, row.type, row.events]);

function chip(row) {
  const made = document.createElement("span");
  made.className = "chip";
  paint(made, row.connection, row.stream);
  return made;
}

function part(className, text) {
  const made = document.createElement("span");
  made.className = className;
  made.textContent = text;
  return made;
}

function draw(row) {
  const item = document.createElement("li");
  item.dataset.direction = row.direction;
  item.dataset.type = row.type;
  const time = new Date(row.time * 1000);
  item.append(
    part("time", `${time.toLocaleTimeString("en-GB")}.${String(time.getMilliseconds()).padStart(3, "0")}`),
    part("arrow", { in: "browser → server", out: "server → browser" }[row.direction] ?? ""),
    part("kind", row.type),
  );
  const chips = part("chips", "");
  if (row.stream) chips.append(chip(row));
  item.append(chips, part("meaning", row.meaning));
  const windows = [];
  if (row.stream_window !== undefined) windows.push(`stream ${row.stream_window.toLocaleString("en")}`);
  if (row.connection_window !== undefined) {
    windows.push(`connection ${row.connection_window.toLocaleString("en")}`);
  }
  if (windows.length) item.append(part("windows", `window: ${windows.join(", ")}`));
  return item;
}

let last = { key: "", item: null };

function show(row) {
  frames += row.type === "WRITE" ? 0 : 1;
  if (row.type === "OPEN") protocols.set(row.connection, row.protocol);
  if (row.type === "WRITE") together = row.tabs;
  const found = row.type === "DATA" && row.events ? key(row) : "";
  if (found && found === last.key) {
    const chips = last.item.querySelector(".chips");
    chips.append(chip(row));
    last.item.querySelector(".kind").textContent = `DATA × ${chips.childElementCount}`;
    last.item.querySelector(".windows")?.remove(); // each stream has its own
    return;
  }
  const item = draw(row);
  list.prepend(item);
  last = { key: found, item };
}

const source = new EventSource("/trace/events");
watch(source);

source.addEventListener("here", (event) => {
  const here = JSON.parse(event.data);
  protocols.set(here.connection, here.protocol);
});

source.addEventListener("rows", (event) => {
  const told = JSON.parse(event.data);
  own += told.own;
  more += told.more;
  if (!paused) {
    for (const row of told.rows) show(row);
    while (list.childElementCount > MOST_ROWS) list.lastChild.remove();
    summarise();
  }
  const words = [`${count(frames, "frame")} shown, the newest first`, `${own} that carry this trace left out`];
  if (more) words.push(`${more} too many to show`);
  document.querySelector("#counted").textContent = `${words.join("; ")}.`;
});
