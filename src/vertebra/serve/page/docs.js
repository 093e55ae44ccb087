// The OpenAPI description as a page.

const main = document.getElementById("api");

function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

const table = (rows) => element("table", ...rows.map((cells) => element("tr", ...cells.map((cell) => element("td", cell)))));

function section(path, method, operation) {
  const part = element("section", element("h2", element("code", `${method.toUpperCase()} ${path}`)));
  part.append(element("p", operation.summary ?? ""));
  const parameters = (operation.parameters ?? []).map(({ name, description }) => [element("code", name), description ?? ""]);
  const bodies = Object.keys(operation.requestBody?.content ?? {});
  if (bodies.length) parameters.push(["body", bodies.join(", ")]);
  const answers = Object.entries(operation.responses).map(([status, { description, content }]) => [
    element("code", status),
    `${description}${status === "200" ? ` (${Object.keys(content ?? {}).join(", ")})` : ""}`,
  ]);
  part.append(table([...parameters, ...answers]));
  return part;
}

const description = await (await fetch("openapi.json")).json();
document.getElementById("description").textContent = description.info.description;
const root = location.href.replace(/docs[^/]*$/, "");
document.getElementById("example").textContent = `curl --data-binary @photo.jpg ${root}predict`;
for (const [path, operations] of Object.entries(description.paths)) {
  for (const [method, operation] of Object.entries(operations)) main.append(section(path, method, operation));
}
