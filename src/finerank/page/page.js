"use strict";
// Texts reach the page as textContent only: none of them can become an element.
const make = (tag, kind, text) => {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  return element;
};
const island = document.getElementById("data");
const explorer = document.getElementById("explorer");

const valueOf = (row, column) => {
  const cell = row.cells[column];
  const number = Number(cell.dataset.v ?? cell.textContent.replace(/,/g, "").split(" ")[0]);
  return cell.textContent.trim() !== "" && Number.isFinite(number) ? number : null;
};
const compare = (one, other) => {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return typeof one === typeof other ? one.localeCompare(other) : typeof one === "number" ? 1 : -1;
};
document.querySelectorAll("table").forEach((table) => {
  const body = table.tBodies[0];
  if (!table.tHead || body.rows.length < 2) return;
  const heads = [...table.tHead.rows[0].cells];
  const sort = (column) => {
    const down = heads[column].getAttribute("aria-sort") !== "descending";
    const key = (row) => valueOf(row, column) ?? row.cells[column].textContent;
    const rows = [...body.rows].map((row) => [key(row), row]).sort((one, other) => compare(one[0], other[0]));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...(down ? rows.reverse() : rows).map((pair) => pair[1]));
  };
  heads.forEach((head, column) => {
    head.classList.add("sorts");
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(column));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        sort(column);
      }
    });
  });
});

document.addEventListener("click", (event) => {
  const passage = event.target.closest && event.target.closest(".passage");
  if (passage) passage.classList.toggle("whole");
});

const STEP = 40;
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
const explore = (data) => {
  const [TEXT, RELEVANT, VALUES, LISTS] = [0, 1, 2, 3];
  const change = (query) => query[VALUES][data.focus] - query[VALUES][data.base];
  const kindOf = (value) => (value > 0 ? "better" : value < 0 ? "worse" : "equal");
  const shown = new Set(data.shown);
  let words = null;
  let limit = STEP;

  const tools = make("div", "tools");
  const search = make("input");
  search.id = "search";
  search.type = "search";
  search.placeholder = "Search queries and passages";
  search.setAttribute("aria-label", search.placeholder);
  const filter = make("select");
  filter.id = "filter";
  filter.setAttribute("aria-label", "Which queries");
  const order = make("select");
  order.id = "order";
  order.setAttribute("aria-label", "Order");
  const option = (select, value, text) => {
    const item = make("option", "", text);
    item.value = value;
    select.append(item);
  };
  const counted = (kind) => data.queries.filter((query) => kindOf(change(query)) === kind).length;
  option(filter, "all", `all ${data.queries.length}`);
  if (data.arms.length > 1) {
    ["better", "worse", "equal"].forEach((kind) => option(filter, kind, `${counted(kind)} ${kind}`));
  }
  option(filter, "lists", `${data.queries.filter((query) => query[LISTS]).length} with result lists`);
  if (data.arms.length > 1) {
    option(order, "best", "most improved first");
    option(order, "worst", "most worsened first");
  } else {
    option(order, "high", "best first");
  }
  option(order, "low", "lowest value first");
  option(order, "name", "by text");
  tools.append(search, filter, order);

  const arms = make("div", "arms");
  arms.append(make("span", "", "lists of"));
  data.arms.forEach((name, place) => {
    const button = make("button", "", name);
    button.type = "button";
    button.setAttribute("aria-pressed", String(shown.has(place)));
    button.addEventListener("click", () => {
      if (shown.has(place) && shown.size > 1) shown.delete(place);
      else shown.add(place);
      button.setAttribute("aria-pressed", String(shown.has(place)));
      list.querySelectorAll("details[open]").forEach(fill);
    });
    arms.append(button);
  });
  const count = make("p", "lead");
  count.id = "count";
  count.setAttribute("role", "status");
  const list = make("div");
  list.id = "queries";
  const more = make("button", "", "");
  more.type = "button";
  more.id = "more";

  const moved = (item) => {
    const [, , move] = item;
    if (move === null) return make("span", "move new", "new");
    if (move === 0) return "";
    return make("span", `move ${move > 0 ? "up" : "down"}`, `${move > 0 ? "▲" : "▼"}${Math.abs(move)}`);
  };
  const column = (query, arm) => {
    const box = make("div", "column");
    const head = make("h4", "", data.arms[arm]);
    head.append(make("span", "", query[VALUES][arm].toFixed(3)));
    const items = make("ol");
    query[LISTS][arm].forEach((item, place) => {
      const [passage, grade, , score] = item;
      const line = make("li", grade > 0 ? "relevant" : "");
      line.dataset.p = passage;
      line.append(make("span", "rank", place + 1));
      if (grade > 0) {
        const tick = make("span", "tick", "✓");
        tick.title = `relevant, grade ${grade}`;
        line.append(tick);
      }
      if (arm !== data.base) line.append(moved(item));
      line.append(make("span", "score", score));
      const text = make("span", "passage", data.passages[passage]);
      text.dir = "auto";
      line.append(text);
      items.append(line);
    });
    if (!query[LISTS][arm].length) items.append(make("li", "", "no results"));
    box.append(head, items);
    return box;
  };
  const fill = (details) => {
    const query = data.queries[details.dataset.q];
    details.querySelectorAll(".columns, .values").forEach((old) => old.remove());
    if (query[LISTS]) {
      const columns = make("div", "columns");
      data.arms.forEach((_, arm) => shown.has(arm) && columns.append(column(query, arm)));
      details.append(columns);
      return;
    }
    const values = make("div", "values");
    data.arms.forEach((name, arm) => {
      const value = make("span", "", `${name} `);
      value.append(make("b", "", query[VALUES][arm].toFixed(3)));
      values.append(value);
    });
    values.append(make("span", "", data.without));
    details.append(values);
  };
  const row = (index) => {
    const query = data.queries[index];
    const details = make("details", "sample");
    details.dataset.q = index;
    const summary = make("summary");
    const text = make("span", "query", query[TEXT]);
    text.dir = "auto";
    const meta = make("span", "meta");
    if (data.arms.length > 1) {
      const value = change(query);
      const kind = { better: "better", worse: "worse", equal: "unclear" }[kindOf(value)];
      meta.append(make("span", kind, signed(value)), " · ");
      meta.append(`${query[VALUES][data.base].toFixed(2)} → ${query[VALUES][data.focus].toFixed(2)} · `);
    } else meta.append(`${query[VALUES][0].toFixed(3)} · `);
    meta.append(`${query[RELEVANT]} relevant`);
    summary.append(text, meta);
    details.append(summary);
    details.addEventListener("toggle", () => details.open && fill(details));
    return details;
  };

  const orders = {
    best: (one, other) => change(other) - change(one),
    worst: (one, other) => change(one) - change(other),
    high: (one, other) => other[VALUES][0] - one[VALUES][0],
    low: (one, other) => one[VALUES][data.focus] - other[VALUES][data.focus],
    name: (one, other) => one[TEXT].localeCompare(other[TEXT]),
  };
  const textOf = (query) => {
    const passages = new Set((query[LISTS] || []).flat().map((item) => item[0]));
    return [query[TEXT], ...[...passages].map((passage) => data.passages[passage])].join("\n").toLowerCase();
  };
  const matches = (terms) => {
    if (terms.length && words === null) words = data.queries.map(textOf);
    const wanted = filter.value;
    return data.queries.map((query, index) => index).filter((index) => {
      const query = data.queries[index];
      if (wanted === "lists" ? !query[LISTS] : wanted !== "all" && kindOf(change(query)) !== wanted) return false;
      return terms.every((term) => words[index].includes(term));
    });
  };
  const draw = () => {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = matches(terms).sort((one, other) => orders[order.value](data.queries[one], data.queries[other]));
    list.replaceChildren(...found.slice(0, limit).map(row));
    const all = found.length === data.queries.length ? "" : ` of ${data.queries.length}`;
    count.textContent = `${found.length}${all} ${found.length === 1 && !all ? "query" : "queries"}`;
    more.hidden = found.length <= limit;
    more.textContent = `show ${Math.min(STEP, found.length - limit)} more`;
    return found;
  };
  const restart = () => {
    limit = STEP;
    draw();
  };
  [search, filter, order].forEach((control) => control.addEventListener("input", restart));
  more.addEventListener("click", () => {
    limit += STEP;
    draw();
  });
  const light = (event) => {
    const item = event.target.closest("li[data-p]");
    list.querySelectorAll("li.same").forEach((other) => other.classList.remove("same"));
    if (!item) return;
    const fellows = item.closest("details").querySelectorAll("li[data-p]");
    fellows.forEach((other) => other.classList.toggle("same", other.dataset.p === item.dataset.p));
  };
  list.addEventListener("mouseover", light);
  list.addEventListener("mouseleave", light);
  if (data.arms.length < 2 || !data.passages.length) arms.hidden = true;
  explorer.replaceChildren(tools, arms, count, list, more);
  const first = draw().findIndex((index) => data.queries[index][LISTS]);
  if (first >= 0 && first < limit) list.children[first].open = true;
};
if (island && explorer) explore(JSON.parse(island.textContent));
