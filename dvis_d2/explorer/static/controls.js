// The thresholds as a form, from the server's table.

function range([from, to, step], value, name, onInput) {
  const slider = Object.assign(document.createElement("input"), { type: "range", min: Math.min(from, value), max: Math.max(to, value), step });
  slider.value = value;
  slider.setAttribute("aria-label", name);
  const output = Object.assign(document.createElement("output"), { textContent: value });
  slider.addEventListener("input", () => {
    output.textContent = slider.value;
    onInput(Number(slider.value));
  });
  return [slider, output];
}

function row(...parts) {
  const line = document.createElement("div");
  line.className = "row";
  line.append(...parts);
  return line;
}

function button(text, label, act, disabled = false) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text, disabled });
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

// Fills the form; `values` change in place, and onChange(row of the table) is called.
export function buildControls(form, table, values, onChange) {
  form.replaceChildren(...table.map((entry) => build(entry, values, onChange)));
}

function build(entry, values, onChange) {
  const { key, text, choices } = entry;
  const field = document.createElement("fieldset");
  field.dataset.key = key;
  field.setAttribute("aria-label", text);
  field.append(Object.assign(document.createElement("span"), { className: "label", textContent: text, title: key }));
  const change = (value) => {
    values[key] = value;
    onChange(entry);
  };
  const again = (value) => {
    change(value);
    field.replaceWith(build(entry, values, onChange));
  };
  const value = values[key];
  if (choices && Array.isArray(value)) {
    const boxes = choices.map((choice) => {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: value.includes(choice) });
      box.addEventListener("change", () => {
        const chosen = choices.filter((c) => (c === choice ? box.checked : values[key].includes(c)));
        if (chosen.length) change(chosen);
        else box.checked = true; // one has to stay
      });
      const label = document.createElement("label");
      label.append(box, choice);
      return label;
    });
    field.append(row(...boxes));
  } else if (choices) {
    const select = document.createElement("select");
    select.setAttribute("aria-label", text);
    select.append(...choices.map((choice) => new Option(choice, choice, false, choice === value)));
    select.addEventListener("change", () => change(select.value));
    field.append(row(select));
  } else if (Array.isArray(value)) {
    value.forEach((one, i) => {
      const parts = range(entry.range, one, `${text} ${i + 1}`, (given) => change(values[key].map((v, j) => (j === i ? given : v))));
      const remove = button("−", `remove ${text} ${i + 1}`, () => again(values[key].filter((_, j) => j !== i)), value.length === 1);
      field.append(row(...parts, remove));
    });
    const half = (list) => Math.max(entry.range[0], Number((list[list.length - 1] / 2).toFixed(2)));
    if (value.length < 8) field.append(row(button("+", `one more of ${text}`, () => again([...values[key], half(values[key])]))));
  } else {
    field.append(row(...range(entry.range, value, text, change)));
  }
  return field;
}
