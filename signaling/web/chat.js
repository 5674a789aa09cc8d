/** The chat: a list of what was said. */

import { $, element } from './dom.js';

export class Chat {
  /** `{from, name, text, at, mine}`, oldest first. */
  messages = [];

  constructor(onSend) {
    $('#chat-form').addEventListener('submit', (event) => {
      event.preventDefault();
      const input = $('#chat-text');
      const text = input.value.trim();
      if (!text) return;
      input.value = '';
      onSend(text);
    });
  }

  add(message) {
    this.messages.push(message);
    if (this.messages.length > 500) this.messages.shift();
    const list = $('#messages');
    const stay = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    const time = new Date(message.at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
    list.append(element('li', { className: message.mine ? 'mine' : '' },
      element('span', { className: 'meta', textContent: `${message.mine ? 'You' : message.name} · ${time}` }),
      element('span', { className: 'text', textContent: message.text })));
    if (list.children.length > 500) list.firstChild.remove();
    if (stay || message.mine) list.scrollTop = list.scrollHeight;
  }

  /** A line of what happened: somebody came or left. */
  note(text) {
    $('#messages').append(element('li', { className: 'note', textContent: text }));
  }
}
