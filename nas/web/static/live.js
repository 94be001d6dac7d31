// Keeps a page up to date: asks for it again, and replaces the parts that have changed.
"use strict";

const LEAST = 2; // seconds between two looks, unless the server asks for more

function local(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.valueOf())) {
      time.title = `${time.dateTime.slice(0, 19).replace("T", " ")} UTC`;
      time.textContent = moment.toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
    }
  }
}

function look() {
  const style = getComputedStyle(document.documentElement);
  const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
  return { text, line };
}

async function draw(chart) {
  if (!window.Plotly) return;
  const answer = await fetch(chart.dataset.figure, { cache: "no-cache" });
  const tag = answer.headers.get("ETag");
  const { text, line } = look();
  if (tag && chart.dataset.tag === tag + text) return;
  const figure = await answer.json();
  if (!answer.ok) {
    chart.textContent = figure.error;
    return;
  }
  const layout = {
    ...figure.layout,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text, family: "system-ui, sans-serif", size: 12 },
    margin: { l: 60, r: 16, t: 16, b: 48 },
    legend: { orientation: "h", yref: "container", y: 0 },
  };
  for (const name of Object.keys(layout)) {
    if (/^[xy]axis/.test(name)) {
      layout[name] = { ...layout[name], gridcolor: line, zerolinecolor: line, automargin: true };
    }
  }
  await Plotly.react(chart, figure.data, layout, { displayModeBar: false, responsive: true });
  chart.dataset.tag = tag + text;
}

function drawAll() {
  for (const chart of document.querySelectorAll(".chart")) draw(chart).catch(console.warn);
}

// What has the focus, so that it can be found in a part that was replaced.
function focused(part) {
  const own = document.activeElement;
  if (!part.contains(own)) return null;
  return own.id ? `#${CSS.escape(own.id)}` : own.getAttribute("href") ? `a[href="${CSS.escape(own.getAttribute("href"))}"]` : null;
}

function replace(fresh) {
  for (const part of document.querySelectorAll(".part[id]")) {
    const other = fresh.getElementById(part.id);
    if (!other) {
      continue;
    }
    if (part.id === "figures") {
      const own = [...part.querySelectorAll(".chart")].map((chart) => chart.dataset.figure).join();
      const theirs = [...other.querySelectorAll(".chart")].map((chart) => chart.dataset.figure).join();
      if (own === theirs) continue;
    } else if (part.dataset.text === other.outerHTML) {
      continue;
    }
    const selector = focused(part);
    const scrolled = [...part.querySelectorAll(".wide")].map((wide) => wide.scrollLeft);
    const kept = document.importNode(other, true);
    kept.dataset.text = other.outerHTML;
    local(kept);
    part.replaceWith(kept);
    kept.querySelectorAll(".wide").forEach((wide, place) => {
      wide.scrollLeft = scrolled[place] ?? 0;
    });
    if (selector) kept.querySelector(selector)?.focus({ preventScroll: true });
  }
}

let known = null;
let timer = 0;

async function refresh() {
  const status = document.getElementById("live");
  let pause = LEAST;
  try {
    const answer = await fetch(location.href.split("#")[0], { cache: "no-cache" });
    pause = Math.max(pause, Number(answer.headers.get("Nas-Next")) || 0);
    if (answer.ok && answer.headers.get("ETag") !== known) {
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      known = answer.headers.get("ETag");
      drawAll();
    }
    if (status.textContent) status.textContent = "";
  } catch {
    status.textContent = "The server does not answer. Trying again…";
    pause = 10;
  }
  plan(pause);
}

function plan(seconds) {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(refresh, 1000 * seconds);
}

for (const part of document.querySelectorAll(".part[id]")) part.dataset.text = part.outerHTML;
local(document);
drawAll();
plan(LEAST);
document.addEventListener("visibilitychange", () => plan(0));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
