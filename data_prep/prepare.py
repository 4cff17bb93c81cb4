"""`basicsr prepare` as a script.

python data_prep/prepare.py DIV2K --from DIR --to datasets
"""

import sys

from basicsr_command import main

if __name__ == '__main__':
    sys.exit(main(['prepare', *sys.argv[1:]]))
