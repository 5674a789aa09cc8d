/** What a member knows of its room: who else is there, and how far it has read the room's log. */
export class Roster {
  epoch = 0;
  seq = 0;
  /** By id: `{id, name?, meta?, user?, polite}`. */
  members = new Map();

  /** Begins with what the server tells; `self` is our own id. */
  begin({ epoch, seq, members }, self) {
    this.moveTo({ epoch, seq });
    this.members = others(members, self);
  }

  moveTo({ epoch, seq }) {
    this.epoch = epoch;
    this.seq = seq;
  }

  /** Whether an entry of the log is new to us; if so, we have read to there. */
  advance({ epoch, seq }) {
    if (epoch < this.epoch || (epoch === this.epoch && seq <= this.seq)) return false;
    this.moveTo({ epoch, seq });
    return true;
  }

  /** Whether that is somebody new. */
  add(member, self) {
    if (!member?.id || member.id === self || this.members.has(member.id)) return false;
    this.members.set(member.id, member);
    return true;
  }

  remove(id) {
    return this.members.delete(id);
  }

  /** Takes the server's word on who is there, and says what that changes. */
  reconcile(list, self) {
    const now = others(list, self);
    const left = [...this.members.keys()].filter((id) => !now.has(id));
    const joined = [...now.values()].filter(({ id }) => !this.members.has(id));
    // Who is polite was settled when the two met; a later roster must not turn it round in mid-call.
    for (const [id, member] of now) if (this.members.has(id)) member.polite = this.members.get(id).polite;
    this.members = now;
    return { joined, left };
  }
}

function others(list, self) {
  return new Map((list ?? []).filter(({ id }) => id !== self).map((member) => [member.id, { ...member }]));
}
