"""Functions written for the bundled `code` texts; the examples in their docstrings are their checks."""

# fmt: off
SOURCES = '''
def is_palindrome(text):
    """Tell whether the letters of a text read the same backwards, ignoring case.

    >>> is_palindrome("Never odd or even")
    True
    >>> is_palindrome("almost")
    False
    """
    letters = [c.lower() for c in text if c.isalpha()]
    return letters == letters[::-1]
@@
def fibonacci(count):
    """Return the first `count` Fibonacci numbers.

    >>> fibonacci(7)
    [0, 1, 1, 2, 3, 5, 8]
    """
    numbers, a, b = [], 0, 1
    for _ in range(count):
        numbers.append(a)
        a, b = b, a + b
    return numbers
@@
def greatest_common_divisor(a, b):
    """Compute the greatest common divisor by Euclid's method.

    >>> greatest_common_divisor(84, 30)
    6
    """
    while b:
        a, b = b, a % b
    return a
@@
def roman(number):
    """Write a positive integer in Roman numerals.

    >>> roman(1994)
    'MCMXCIV'
    """
    table = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
             (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]
    written = ""
    for value, letters in table:
        times, number = divmod(number, value)
        written += letters * times
    return written
@@
def flatten(nested):
    """Flatten lists inside lists to any depth.

    >>> flatten([1, [2, [3, []]], 4])
    [1, 2, 3, 4]
    """
    flat = []
    for item in nested:
        if isinstance(item, list):
            flat.extend(flatten(item))
        else:
            flat.append(item)
    return flat
@@
def caesar(text, shift):
    """Shift the lower-case letters of a text along the alphabet.

    >>> caesar("xyz, abc", 3)
    'abc, def'
    """
    moved = []
    for c in text:
        if "a" <= c <= "z":
            c = chr((ord(c) - ord("a") + shift) % 26 + ord("a"))
        moved.append(c)
    return "".join(moved)
@@
def primes_below(limit):
    """List the primes below a limit with a sieve.

    >>> primes_below(20)
    [2, 3, 5, 7, 11, 13, 17, 19]
    """
    is_prime = [True] * max(limit, 2)
    is_prime[0] = is_prime[1] = False
    for n in range(2, int(limit ** 0.5) + 1):
        if is_prime[n]:
            for multiple in range(n * n, limit, n):
                is_prime[multiple] = False
    return [n for n in range(limit) if is_prime[n]]
@@
def transpose(matrix):
    """Swap rows and columns.

    >>> transpose([[1, 2, 3], [4, 5, 6]])
    [[1, 4], [2, 5], [3, 6]]
    """
    return [list(column) for column in zip(*matrix)]
@@
def run_lengths(text):
    """Encode runs of equal characters as pairs.

    >>> run_lengths("aaabcc")
    [('a', 3), ('b', 1), ('c', 2)]
    """
    runs = []
    for c in text:
        if runs and runs[-1][0] == c:
            runs[-1] = (c, runs[-1][1] + 1)
        else:
            runs.append((c, 1))
    return runs
@@
def balanced(text):
    """Check that brackets are closed in the right order.

    >>> balanced("{[()]}()")
    True
    >>> balanced("(]")
    False
    """
    pairs = {")": "(", "]": "[", "}": "{"}
    stack = []
    for c in text:
        if c in pairs.values():
            stack.append(c)
        elif c in pairs and (not stack or stack.pop() != pairs[c]):
            return False
    return not stack
@@
def anagrams(words):
    """Group words that are anagrams of each other.

    >>> anagrams(["tea", "rat", "eat", "tar", "ox"])
    [['tea', 'eat'], ['rat', 'tar'], ['ox']]
    """
    groups = {}
    for word in words:
        groups.setdefault("".join(sorted(word)), []).append(word)
    return list(groups.values())
@@
def moving_average(values, width):
    """Average over a sliding window.

    >>> moving_average([1, 2, 3, 4], 2)
    [1.5, 2.5, 3.5]
    """
    return [sum(values[i:i + width]) / width for i in range(len(values) - width + 1)]
@@
def digit_sum(number):
    """Add the decimal digits of an integer.

    >>> digit_sum(-9075)
    21
    """
    return sum(int(d) for d in str(abs(number)))
@@
def bubble_sort(values):
    """Sort a copy of a list by swapping neighbours.

    >>> bubble_sort([5, 1, 4])
    [1, 4, 5]
    """
    ordered = list(values)
    for end in range(len(ordered) - 1, 0, -1):
        for i in range(end):
            if ordered[i] > ordered[i + 1]:
                ordered[i], ordered[i + 1] = ordered[i + 1], ordered[i]
    return ordered
@@
def title_case(sentence):
    """Capitalise every word of more than three letters.

    >>> title_case("the wind in the willows")
    'the Wind in the Willows'
    """
    return " ".join(w.capitalize() if len(w) > 3 else w for w in sentence.split())
@@
def collatz_length(number):
    """Count the steps until the Collatz sequence reaches one.

    >>> collatz_length(6)
    8
    """
    steps = 0
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps
@@
def common_prefix(words):
    """Find the longest common prefix.

    >>> common_prefix(["interview", "internet", "interval"])
    'inter'
    >>> common_prefix([])
    ''
    """
    prefix = words[0] if words else ""
    for word in words:
        while not word.startswith(prefix):
            prefix = prefix[:-1]
    return prefix
@@
def chunks(items, size):
    """Cut a list into pieces of at most `size`.

    >>> chunks([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4], [5]]
    """
    return [items[i:i + size] for i in range(0, len(items), size)]
@@
def invert(mapping):
    """Swap keys and values, collecting keys that share a value.

    >>> invert({"a": 1, "b": 2, "c": 1})
    {1: ['a', 'c'], 2: ['b']}
    """
    inverted = {}
    for key, value in mapping.items():
        inverted.setdefault(value, []).append(key)
    return inverted
@@
def binary(number):
    """Write a non-negative integer in base two without using bin.

    >>> binary(10)
    '1010'
    >>> binary(0)
    '0'
    """
    digits = ""
    while number:
        digits = str(number % 2) + digits
        number //= 2
    return digits or "0"
@@
def vowels(text):
    """Count each vowel of a text.

    >>> vowels("Umbrella")
    {'a': 1, 'e': 1, 'i': 0, 'o': 0, 'u': 1}
    """
    return {v: text.lower().count(v) for v in "aeiou"}
@@
def merge_sorted(left, right):
    """Merge two sorted lists.

    >>> merge_sorted([1, 4], [2, 3, 9])
    [1, 2, 3, 4, 9]
    """
    merged, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]
@@
def leap_year(year):
    """Tell whether a year of the Gregorian calendar is a leap year.

    >>> [y for y in (1900, 2000, 2023, 2024) if leap_year(y)]
    [2000, 2024]
    """
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
@@
def factors(number):
    """Return the prime factors in rising order.

    >>> factors(360)
    [2, 2, 2, 3, 3, 5]
    """
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found + [number] if number > 1 else found
@@
def rotate(items, places):
    """Rotate a list to the right.

    >>> rotate([1, 2, 3, 4, 5], 2)
    [4, 5, 1, 2, 3]
    """
    if not items:
        return []
    cut = -places % len(items)
    return items[cut:] + items[:cut]
@@
def parse_query(text):
    """Parse a query string into a dictionary.

    >>> parse_query("page=2&sort=name&empty=")
    {'page': '2', 'sort': 'name', 'empty': ''}
    """
    return dict(pair.split("=", 1) for pair in text.split("&") if pair)
@@
def hamming(one, other):
    """Count the positions in which two strings of equal length differ.

    >>> hamming("karolin", "kathrin")
    3
    """
    return sum(a != b for a, b in zip(one, other))
@@
def pascal_row(index):
    """Compute a row of Pascal's triangle.

    >>> pascal_row(4)
    [1, 4, 6, 4, 1]
    """
    row = [1]
    for _ in range(index):
        row = [a + b for a, b in zip([0] + row, row + [0])]
    return row
@@
def second_largest(values):
    """Return the second largest distinct value, or None.

    >>> second_largest([3, 9, 9, 5])
    5
    >>> second_largest([2, 2]) is None
    True
    """
    distinct = sorted(set(values))
    return distinct[-2] if len(distinct) > 1 else None
@@
def word_lengths(sentence):
    """Map each word to its length.

    >>> word_lengths("to be or not")
    {'to': 2, 'be': 2, 'or': 2, 'not': 3}
    """
    return {word: len(word) for word in sentence.split()}
@@
def celsius(fahrenheit):
    """Convert degrees Fahrenheit to Celsius, rounded to one decimal.

    >>> celsius(98.6)
    37.0
    """
    return round((fahrenheit - 32) * 5 / 9, 1)
@@
def power_set(items):
    """List all subsets.

    >>> power_set([1, 2])
    [[], [1], [2], [1, 2]]
    """
    subsets = [[]]
    for item in items:
        subsets += [subset + [item] for subset in subsets]
    return subsets
@@
def running_total(values):
    """Return the cumulative sums.

    >>> running_total([3, -1, 4])
    [3, 2, 6]
    """
    totals, total = [], 0
    for value in values:
        total += value
        totals.append(total)
    return totals
@@
def seconds_to_clock(seconds):
    """Format seconds as hours, minutes and seconds.

    >>> seconds_to_clock(3725)
    '1:02:05'
    """
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
@@
def levenshtein(one, other):
    """Compute the edit distance of two strings.

    >>> levenshtein("kitten", "sitting")
    3
    """
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        previous, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
@@
def perfect(number):
    """Tell whether a number equals the sum of its proper divisors.

    >>> [n for n in range(2, 500) if perfect(n)]
    [6, 28, 496]
    """
    return number == sum(d for d in range(1, number) if number % d == 0)
@@
def majority(votes):
    """Return the option with more than half of the votes, or None.

    >>> majority(["x", "y", "x"])
    'x'
    >>> majority(["x", "y"]) is None
    True
    """
    for option in set(votes):
        if 2 * votes.count(option) > len(votes):
            return option
    return None
@@
def spiral(matrix):
    """Read a matrix along a clockwise spiral.

    >>> spiral([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    [1, 2, 3, 6, 9, 8, 7, 4, 5]
    """
    order = []
    while matrix:
        order += matrix[0]
        matrix = [list(row) for row in zip(*matrix[1:])][::-1]
    return order
@@
def acronym(phrase):
    """Build an acronym of the initials.

    >>> acronym("portable network graphics")
    'PNG'
    """
    return "".join(word[0].upper() for word in phrase.split())
@@
def intersect(one, other):
    """Return what two lists share, in the order of the first, without repeats.

    >>> intersect([4, 2, 4, 7], [7, 4])
    [4, 7]
    """
    wanted, shared = set(other), []
    for item in one:
        if item in wanted and item not in shared:
            shared.append(item)
    return shared
'''
# fmt: on


def functions() -> list[str]:
    """The source of each function."""
    return [source.strip("\n") for source in SOURCES.split("@@")]
