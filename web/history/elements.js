// Creates elements. Texts are set as text, so that user input is never parsed as HTML.

/** An element with properties and children. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A button with a name and an icon of ComfyUI's set. */
export function iconButton(icon, name, onClick) {
  const button = element("button", { type: "button", title: name, className: "kh-icon" });
  button.setAttribute("aria-label", name);
  const image = element("i", { className: `pi ${icon}` });
  image.setAttribute("aria-hidden", "true");
  button.append(image);
  button.addEventListener("click", onClick);
  return button;
}

/**
 * A menu at an element, of [name, action] pairs. It closes on Escape, on a click elsewhere and after a choice; the
 * focus then returns to where it was.
 */
export function openMenu(anchor, entries) {
  const menu = element("div", { className: "kh-menu", popover: "auto" });
  menu.setAttribute("role", "menu");
  const back = document.activeElement;
  for (const [name, action] of entries) {
    const item = element("button", { type: "button", textContent: name });
    item.setAttribute("role", "menuitem");
    item.addEventListener("click", () => {
      menu.hidePopover();
      action();
    });
    menu.append(item);
  }
  menu.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const items = [...menu.children];
    items.at((items.indexOf(document.activeElement) + step) % items.length).focus();
  });
  menu.addEventListener("toggle", (event) => {
    if (event.newState !== "closed") return;
    menu.remove();
    if (document.activeElement === document.body) back?.focus({ preventScroll: true });
  });
  document.body.append(menu);
  menu.showPopover();
  const box = anchor.getBoundingClientRect();
  const size = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(4, Math.min(box.right - size.width, innerWidth - size.width - 4))}px`;
  menu.style.top = `${Math.max(4, Math.min(box.bottom, innerHeight - size.height - 4))}px`;
  menu.firstElementChild.focus();
}
