// Creates an element with text. Look here to see that text from events can never become markup.

/** @param {string} tag @param {string} className @param {string} [text] */
export function element(tag, className, text = '') {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}
