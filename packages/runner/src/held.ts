/**
 * What a worker holds, found by task id.
 *
 * A Map would do it, but this one turns over thousands of times a second: V8 lets every outgrown table of a Map point to
 * the next one, so a dead table that has grown old keeps all later ones, with what is in them, from being collected young
 * (measured: a quarter of what a task costs in this process). Here a table stands until more is held than ever before, and
 * what leaves it points to nothing.
 */

/** Something that can be held, in one place at a time. */
export interface Holdable<T> {
  readonly taskId: string
  /** The next one whose id falls on the same slot. */
  nextHeld: T | null
}

const firstSlots = 1024 // a power of two, as are all later ones

/** Things by task id, of which none may be there twice. */
export class Held<T extends Holdable<T>> {
  /** How many they are. */
  size = 0
  /** The first of each slot. */
  private slots: (T | null)[] = empty(firstSlots)

  get(taskId: string): T | null {
    let there = this.first(taskId)
    while (there !== null && there.taskId !== taskId) there = there.nextHeld
    return there
  }

  add(item: T): void {
    if (this.size === this.slots.length) this.grow()
    this.put(item)
    this.size += 1
  }

  /** Takes it out; nothing happens when it is not in. */
  remove(item: T): void {
    let before: T | null = null
    let there = this.first(item.taskId)
    while (there !== item) {
      if (there === null) return
      before = there
      there = there.nextHeld
    }
    if (before === null) this.slots[this.slotOf(item.taskId)] = item.nextHeld
    else before.nextHeld = item.nextHeld
    item.nextHeld = null
    this.size -= 1
  }

  /** All that is in now, in no order. */
  all(): T[] {
    const all: T[] = []
    for (const first of this.slots) for (let each = first; each !== null; each = each.nextHeld) all.push(each)
    return all
  }

  private first(taskId: string): T | null {
    return this.slots[this.slotOf(taskId)] ?? null
  }

  private put(item: T): void {
    item.nextHeld = this.first(item.taskId)
    this.slots[this.slotOf(item.taskId)] = item
  }

  private grow(): void {
    const all = this.all()
    this.slots = empty(2 * this.slots.length)
    for (const item of all) this.put(item)
  }

  /** Ids are numbers in a row, mostly: their last six digits spread as well as any hash. */
  private slotOf(taskId: string): number {
    let number = 0
    for (let i = Math.max(0, taskId.length - 6); i < taskId.length; i++) {
      number = number * 10 + taskId.charCodeAt(i) - zero
    }
    return number & (this.slots.length - 1)
  }
}

const zero = '0'.charCodeAt(0)

function empty<T>(slots: number): (T | null)[] {
  return Array.from({ length: slots }, () => null)
}
