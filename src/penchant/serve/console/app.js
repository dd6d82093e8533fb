"use strict";
// The console: a user's history, the list, and how the list moves after a click. Text enters the page by textContent only.

const $ = (id) => document.getElementById(id);
const state = { user: "", query: "", listSize: 10, channels: [], reads: false, readsQueries: false, ranks: new Map(), turn: 0 };

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

async function call(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options || {});
  const answer = await response.json();
  if (!response.ok) {
    throw new Error((answer.errors || []).map((e) => `${e.field}: ${e.problem}. ${e.fix}`).join(" ") || response.statusText);
  }
  return answer;
}

function say(text, isProblem = false) {
  $("status").textContent = text;
  $("status").classList.toggle("problem", isProblem);
}

function picture(item) {
  if (!item.thumbnail) return make("span", "picture");
  const image = make("img", "picture");
  image.src = item.thumbnail;
  image.alt = "";
  image.loading = "lazy";
  return image;
}

function showHistory(user) {
  $("length").textContent = user.known ? `${user.length} actions, newest first` : "none: a new user";
  $("history").replaceChildren(...user.history.map((item) => {
    const row = make("li");
    const text = make("div", "text");
    const when = item.ts_ms === null ? "" : new Date(item.ts_ms).toLocaleDateString(undefined, { dateStyle: "medium" });
    text.append(make("span", "name", item.title), make("span", "soft", when));
    row.append(picture(item), text);
    return row;
  }));
}

function chips(item) {
  const all = make("span", "chips");
  if (item.text_rank) all.append(make("span", "chip", `text #${item.text_rank}`));
  for (const [channel, rank] of Object.entries(item.channels)) {
    const chip = make("span", `chip c${state.channels.indexOf(channel) % 6}`, `${channel} #${rank}`);
    chip.title = `place ${rank} in the list of channel ${channel}`;
    all.append(chip);
  }
  return all;
}

// How an item moved since the list before: [class, sign, words].
function movement(item, before) {
  if (!before.size) return ["", "", ""];
  const old = before.get(item.id);
  if (old === undefined) return ["new", "new", "new in the list"];
  const places = old - item.rank;
  const count = `${Math.abs(places)} ${Math.abs(places) === 1 ? "place" : "places"}`;
  if (places > 0) return ["up", `\u25B2 ${places}`, `up ${count}`];
  if (places < 0) return ["down", `\u25BC ${-places}`, `down ${count}`];
  return ["", "", ""];
}

// What a calibrated bundle says of the next click; else the ranker's score, which only orders.
function scored(item) {
  return item.chance == null ? item.score.toFixed(3) : `${(100 * item.chance).toFixed(1)} %`;
}

function row(item, before) {
  const line = make("li");
  line.dataset.id = item.id;
  const button = make("button");
  const [kind, sign, words] = movement(item, before);
  const move = make("span", `move ${kind}`, sign);
  move.setAttribute("aria-hidden", "true");
  const body = make("span", "body");
  body.append(make("span", "name", item.title));
  if (item.category) body.append(make("span", "soft", item.category));
  body.append(chips(item));
  button.append(make("span", "rank", item.rank), move, picture(item), body, make("span", "score", scored(item)));
  button.setAttribute("aria-label", `${item.rank}. ${item.title}${words && `, ${words}`}. Log a click.`);
  button.addEventListener("click", () => click(item));
  line.append(button);
  return line;
}

// Let rows that stayed glide from their old place to the new one.
function glide(list, tops) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const line of list.children) {
    const old = tops.get(line.dataset.id);
    const timing = { duration: 550, easing: "cubic-bezier(.2, .8, .2, 1)" };
    if (old === undefined) line.animate([{ opacity: 0 }, { opacity: 1 }], timing);
    else line.animate([{ transform: `translateY(${old - line.offsetTop}px)` }, { transform: "none" }], timing);
  }
}

function showList(answer, compare) {
  const list = $("list");
  const before = compare ? state.ranks : new Map();
  const tops = new Map([...list.children].map((line) => [line.dataset.id, line.offsetTop]));
  const titles = new Map([...list.children].map((line) => [line.dataset.id, line.querySelector(".name").textContent]));
  const focused = document.activeElement && document.activeElement.closest("#list li");
  list.replaceChildren(...answer.items.map((item) => row(item, before)));
  if (compare) glide(list, tops);
  if (focused) {
    const again = [...list.children].find((line) => line.dataset.id === focused.dataset.id) || list.firstElementChild;
    if (again) again.firstElementChild.focus({ preventScroll: true });
  }
  state.ranks = new Map(answer.items.map((item) => [item.id, item.rank]));
  const gone = [...before.keys()].filter((id) => !state.ranks.has(id));
  $("gone").textContent = gone.length ? `Left the list: ${gone.map((id) => titles.get(id)).join(", ")}` : "";
  $("served").textContent = answer.served;
  $("list-title").textContent = state.query ? `Matches of \u201C${state.query}\u201D` : `Recommended for ${state.user}`;
  showTiming(answer.timing_ms);
  return answer.items.map((item) => movement(item, before)[0]);
}

function showTiming(timing) {
  const longest = Math.max(...Object.entries(timing).filter(([name]) => name !== "total").map(([, ms]) => ms), 0.001);
  $("total").textContent = `\u2014 ${timing.total.toFixed(1)} ms in all`;
  $("stages").replaceChildren(...Object.entries(timing).filter(([name]) => name !== "total").flatMap(([name, ms]) => {
    const bar = make("div", "bar");
    bar.style.width = `${(100 * ms) / longest}%`;
    const cell = make("dd");
    cell.append(bar);
    return [make("dt", "", name), cell, make("dd", "", `${ms.toFixed(2)} ms`)];
  }));
}

// What the vector says, where the server was asked to load a reader: later than the list, which does not wait for it.
async function readInterest(turn) {
  $("words").textContent = "";
  $("nearest").replaceChildren();
  const query = state.readsQueries && state.query ? { query: state.query } : {};
  const told = await call("/v1/interest", { user_id: state.user, k: 3, ...query });
  if (turn !== state.turn) return;
  $("words").textContent = told.words ? `\u201C${told.words}\u201D` : `Nothing: ${told.reason || "no word is likely"}.`;
  $("nearest").replaceChildren(...told.nearest.map((item) => {
    const near = make("li");
    near.append(picture(item), make("span", "", item.title));
    return near;
  }));
}

// Fetch history and list; answers to an older question are dropped.
async function refresh(compare, note) {
  const turn = ++state.turn;
  try {
    const asked = { user_id: state.user, k: state.listSize };
    const [user, answer] = await Promise.all([
      call("/v1/history", { user_id: state.user }),
      state.query ? call("/v1/search", { ...asked, query: state.query }) : call("/v1/recommend", asked),
    ]);
    if (turn !== state.turn) return;
    showHistory(user);
    const moves = showList(answer, compare);
    const count = (kind) => moves.filter((m) => m === kind).length;
    const moved = compare ? `${count("up")} moved up, ${count("down")} down, ${count("new")} new. ` : "";
    say(`${note || ""}${moved}${answer.reason ? `${answer.reason}.` : ""}` || "Click an item to see the list move.");
    for (const sample of $("samples").children) sample.setAttribute("aria-pressed", sample.textContent === state.user);
    if (state.reads) await readInterest(turn);
  } catch (error) {
    if (turn === state.turn) say(error.message, true);
  }
}

async function click(item) {
  try {
    const event = { user_id: state.user, item_id: item.id, action: "click", event_id: crypto.randomUUID?.() };
    await call("/v1/events", { events: [event] });
    await refresh(true, `Click on \u201C${item.title}\u201D logged. `);
  } catch (error) {
    say(error.message, true);
  }
}

function choose(user) {
  state.user = user;
  $("user").value = user;
  refresh(false);
}

$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  choose($("user").value.trim() || state.user);
});

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  state.query = $("query").value.trim();
  refresh(false);
});

$("query").addEventListener("input", () => {
  if ($("query").value || !state.query) return;
  state.query = "";
  refresh(false);
});

async function start() {
  try {
    const [health, sample] = await Promise.all([call("/healthz"), call("/v1/users?limit=12")]);
    const count = (n) => n.toLocaleString();
    $("data").textContent = `${health.data} \u00B7 ${count(health.items)} items \u00B7 ${count(health.users)} users`;
    $("synthetic").hidden = !health.synthetic;
    state.channels = health.channels;
    state.listSize = health.list_size;
    state.reads = health.reads;
    state.readsQueries = health.reads_queries;
    $("interest").hidden = !health.reads;
    document.body.classList.toggle("no-pictures", !health.pictures);
    const fresh = "new visitor";
    $("samples").replaceChildren(...[...sample.users, fresh].map((id) => {
      const button = make("button", "", id);
      button.type = "button";
      button.addEventListener("click", () => choose(id));
      return button;
    }));
    choose(sample.users[0] || fresh);
  } catch (error) {
    say(error.message, true);
  }
}

start();
