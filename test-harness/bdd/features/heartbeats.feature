Feature: A node that falls silent
  A heartbeat that is 30 s old takes the node out of placement; the next one brings it back.

  Scenario: Silence, then a word
    Given a pool "chat" with 1 slot
    When the pool "chat" is ready
    And the node falls silent
    Then "chat" becomes not ready within a heartbeat's limit
    When the node speaks again
    Then "chat" becomes ready again by itself

  Scenario: The agent dies and the engines do not notice
    Given a pool "chat" with 1 slot
    When the pool "chat" is ready
    And the node's agent is killed
    Then a new agent takes its place and the engines are the same
    And "chat" becomes ready again by itself
    When "chat" is asked
    Then the answer is 200
