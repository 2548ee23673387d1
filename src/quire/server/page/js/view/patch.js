// Makes elements like newer ones with few changes, so that the browser lays out only what is new.

const WHOLE = ".code-frame, .math"; // listened to, or coloured and drawn later

/** Make the last children of an element, `olds`, like `news`; returns those that are there then. */
export function patch(parent, olds, news) {
  for (const old of olds.slice(news.length)) old.remove();
  return news.map((node, index) => {
    if (index < olds.length) return matched(olds[index], node);
    parent.append(node);
    return node;
  });
}

function matched(old, node) {
  if (old.isEqualNode(node)) return old;
  if (old.nodeType === Node.TEXT_NODE && node.nodeType === Node.TEXT_NODE) {
    if (node.data.startsWith(old.data)) old.appendData(node.data.slice(old.data.length));
    else old.data = node.data;
    return old;
  }
  if (isAlike(old, node)) {
    patch(old, [...old.childNodes], [...node.childNodes]);
    return old;
  }
  old.replaceWith(node);
  return node;
}

/** Whether two elements differ in their children alone. */
function isAlike(old, node) {
  const areElements = [old, node].every(({ nodeType }) => nodeType === Node.ELEMENT_NODE);
  if (!areElements || old.matches(WHOLE)) return false;
  return old.cloneNode(false).isEqualNode(node.cloneNode(false));
}
