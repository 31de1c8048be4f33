Feature: A lease is a slot in use
  Counts never go below 0 nor above the slots, and each request takes exactly one.

  Scenario: Each stream takes a slot
    Given a pool "chat" with 3 slots
    When the pool "chat" is ready
    And 2 streams of "chat" run
    Then "chat" has 1 of 3 slots free

  Scenario: A client that leaves gives its slot back
    Given a pool "chat" with 2 slots
    When the pool "chat" is ready
    And 2 streams of "chat" run
    And the client of every stream leaves
    Then "chat" has 2 of 2 slots free

  Scenario: A finished request gives its slot back
    Given a pool "chat" with 1 slot
    When the pool "chat" is ready
    And "chat" is asked
    Then the answer is 200
    And "chat" has 1 of 1 slots free

  Scenario: No slot and a full queue
    Given a pool "chat" with 1 slot and a queue of 1
    When the pool "chat" is ready
    And 1 stream of "chat" runs
    And a stream of "chat" waits
    And "chat" is asked
    Then the answer is 429 ADMISSION_REJECT
    And "chat" has 0 of 1 slots free
